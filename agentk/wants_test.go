package agentk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

func wantedID(kind, namespace, name string) inventory.ID {
	return inventory.ID{GroupKind: schema.GroupKind{Kind: kind}, Namespace: namespace, Name: name}
}

func wantedSet(ids ...inventory.ID) *desired.Set {
	set := &desired.Set{}
	set.Set.Complete = true
	for _, id := range ids {
		set.Set.Objects = append(set.Set.Objects, manifests.Object{ID: id})
	}
	return set
}

func newTestWants() (*wants, *clocktesting.FakePassiveClock) {
	clk := clocktesting.NewFakePassiveClock(time.Unix(1, 0))
	ws := newWants(clk)
	ws.configure([]*agentcfg.ManifestProject{{Id: "a"}, {Id: "b", DefaultNamespace: "team"}})
	return ws, clk
}

func TestWants_FindsObjectsWhereTheyLiveInTheCluster(t *testing.T) {
	ws, _ := newTestWants()
	ws.put("b", "5-2", wantedSet(
		wantedID("ConfigMap", "", "bare"), wantedID("ConfigMap", "other", "placed"),
		wantedID("Namespace", "", "ns"), wantedID("ClusterRole", "mistaken", "role")))
	for _, row := range []struct {
		name string
		id   inventory.ID
		want bool
	}{
		{"without a namespace it is in the project's default one", wantedID("ConfigMap", "team", "bare"), true},
		{"and in no other", wantedID("ConfigMap", "default", "bare"), false},
		{"with a namespace it is there", wantedID("ConfigMap", "other", "placed"), true},
		{"and not in the default one", wantedID("ConfigMap", "team", "placed"), false},
		{"what lives in no namespace has none", wantedID("Namespace", "", "ns"), true},
		{"even if the manifest names one", wantedID("ClusterRole", "", "role"), true},
		{"another kind is another object", wantedID("Secret", "team", "bare"), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			key, got := ws.others("5-1").WantedBy(row.id)
			require.Equal(t, row.want, got)
			if got {
				require.Equal(t, "5-2", key)
			}
			require.Equal(t, !row.want, ws.others("5-1").Released("5-2", row.id))
			_, own := ws.others("5-2").WantedBy(row.id)
			require.False(t, own, "a project is no other to itself")
		})
	}
}

func TestWants_ReleasesOnlyWhatIsSurelyNotWanted(t *testing.T) {
	ws, _ := newTestWants()
	id := wantedID("ConfigMap", "team", "x")
	released := func() bool { return ws.others("5-1").Released("5-2", id) }
	require.False(t, released(), "its set is not known")
	restored := wantedSet()
	restored.Restored = true
	ws.put("b", "5-2", restored)
	require.False(t, released(), "kas has not confirmed it")
	incomplete := wantedSet()
	incomplete.Set.Complete = false
	ws.put("b", "5-2", incomplete)
	require.False(t, released(), "what is missing may be in the file that is broken")
	ws.put("b", "5-2", wantedSet())
	require.True(t, released())
	require.False(t, ws.others("5-1").Released("9-9", id), "another agent's")
	ws.put("b", "5-2", restored)
	require.True(t, released(), "a restored set is not newer")
	ws.configure([]*agentcfg.ManifestProject{{Id: "a"}})
	require.False(t, released(), "a project that left the configuration keeps what it has")
}

func TestWants_SettleWhenAllAreKnownOrHaveBeenWaitedFor(t *testing.T) {
	ws, clk := newTestWants()
	ws.put("a", "5-1", wantedSet())
	others := ws.others("5-1")
	require.False(t, others.Settled())
	clk.SetTime(clk.Now().Add(settleTimeout))
	require.True(t, others.Settled())

	ws.reset()
	ws.configure([]*agentcfg.ManifestProject{{Id: "a"}, {Id: "b"}})
	require.False(t, others.Settled(), "another term, in which all is new")
	ws.put("a", "5-1", wantedSet())
	require.False(t, others.Settled())
	news := ws.news()
	ws.put("b", "5-2", wantedSet())
	require.True(t, others.Settled())
	select {
	case <-news:
	default:
		t.Fatal("nobody was told")
	}
	ws.configure([]*agentcfg.ManifestProject{{Id: "a"}, {Id: "b", DefaultNamespace: "x"}})
	require.True(t, others.Settled(), "a worker that starts anew leaves what is known")
}

func TestEngineProject_GuardHasDefaults(t *testing.T) {
	zero, hundred := uint32(0), uint32(100)
	for _, row := range []struct {
		name                string
		guard               *agentcfg.PruneGuard
		objects, percentage int
	}{
		{"ten objects and half of them", nil, 10, 50},
		{"what is not set keeps its default", &agentcfg.PruneGuard{MaxPercent: &hundred}, 10, 100},
		{"zero objects means every one", &agentcfg.PruneGuard{MinObjects: &zero, MaxPercent: &zero}, 1, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := engineProject("5-1", &agentcfg.ManifestProject{Id: "a", PruneGuard: row.guard})
			require.NoError(t, err)
			require.Equal(t, row.objects, p.Guard.MinObjects)
			require.Equal(t, row.percentage, p.Guard.MaxPercent)
		})
	}
	p, err := engineProject("5-1", &agentcfg.ManifestProject{Id: "a", PruneGuard: &agentcfg.PruneGuard{ApprovedCommit: "c"}})
	require.NoError(t, err)
	require.Equal(t, "c", p.Guard.Approved)
}

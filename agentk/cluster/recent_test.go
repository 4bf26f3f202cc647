package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

func TestRecent_ShowsAResultUntilTheCacheHasCaughtUp(t *testing.T) {
	id := inventory.ID{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, Namespace: "n", Name: "a"}
	before := gitops.Live{UID: "u", ResourceVersion: "99"}
	result := gitops.Live{UID: "u", ResourceVersion: "100"}
	after := gitops.Live{UID: "u", ResourceVersion: "101"}

	for _, row := range []struct {
		name   string
		seen   string
		later  time.Duration
		cached gitops.Live
		found  bool
		want   gitops.Live
		exists bool
	}{
		{name: "the cache knows no such object yet", want: result, exists: true},
		{name: "the cache shows the object as it was before", cached: before, found: true, want: result, exists: true},
		{name: "the cache shows the result", cached: result, found: true, want: result, exists: true},
		{name: "the cache is ahead", cached: after, found: true, want: after, exists: true},
		{name: "the object was deleted since", seen: "101"},
		{name: "another object of the name was deleted before", seen: "98", want: result, exists: true},
		{name: "the cache says nothing for too long", later: recentFor + 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			clock := testclock.NewFakeClock(time.Now())
			r := newRecent(clock)
			r.put(id, result)
			if row.seen != "" {
				r.seen(id, row.seen)
			}
			clock.Step(row.later)
			got, ok := r.newer(id, row.cached, row.found)
			require.Equal(t, row.exists, ok)
			require.Equal(t, row.want, got)
		})
	}
}

func TestRecent_SweepForgetsWhatIsOld(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	r := newRecent(clock)
	r.put(inventory.ID{Name: "a"}, gitops.Live{ResourceVersion: "1"})
	clock.Step(recentFor + 1)
	r.put(inventory.ID{Name: "b"}, gitops.Live{ResourceVersion: "2"})
	r.sweep()
	require.Len(t, r.results, 1)
}

func TestRecent_AnswerThatComesAfterTheDeletionIsNotShown(t *testing.T) {
	id := inventory.ID{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, Namespace: "n", Name: "a"}
	r := newRecent(testclock.NewFakeClock(time.Now()))
	endOther, end := r.begin(id), r.begin(id)
	r.seen(id, "100") // what the request made
	r.seen(id, "101") // its deletion by somebody else
	r.seen(id, "99")
	r.put(id, gitops.Live{UID: "u", ResourceVersion: "100"})
	_, ok := r.newer(id, gitops.Live{}, false)
	require.False(t, ok, "nothing would tell that it is gone")
	end()
	endOther()
	require.Empty(t, r.flying)

	end = r.begin(id)
	r.seen(id, "98") // the deletion of the object before
	r.put(id, gitops.Live{UID: "v", ResourceVersion: "102"})
	_, ok = r.newer(id, gitops.Live{}, false)
	require.True(t, ok)
	end()
}

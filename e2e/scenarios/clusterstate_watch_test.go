package scenarios

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/e2e/harness"
)

// labelled is a query for the ConfigMaps that bear the fixture's label.
func labelled(f *harness.Fixture, shape clusterstate.Shape) *clusterstate.Query {
	return &clusterstate.Query{Resource: core("configmaps"), LabelSelector: "of=" + f.Name, Shape: shape}
}

// change makes a ConfigMap with the fixture's label, or sets its value.
func change(f *harness.Fixture, name, value string) *corev1.ConfigMap {
	f.T.Helper()
	maps := f.Kube.CoreV1().ConfigMaps(f.Name)
	cm, err := maps.Get(f.T.Context(), name, metav1.GetOptions{})
	if err != nil {
		return makeConfigMap(f, f.Name, name, value, map[string]string{"of": f.Name})
	}
	cm.Data = map[string]string{"key": value}
	if cm, err = maps.Update(f.T.Context(), cm, metav1.UpdateOptions{}); err != nil {
		f.T.Fatal(err)
	}
	return cm
}

// remove deletes a ConfigMap of the fixture's namespace.
func remove(f *harness.Fixture, name string) {
	f.T.Helper()
	if err := f.Kube.CoreV1().ConfigMaps(f.Name).Delete(f.T.Context(), name, metav1.DeleteOptions{}); err != nil {
		f.T.Fatal(err)
	}
}

// catchUp waits until the watch's copy is what the API server has.
func catchUp(f *harness.Fixture, w *harness.Watch) {
	f.T.Helper()
	list, err := f.Kube.CoreV1().ConfigMaps("").List(f.T.Context(), metav1.ListOptions{LabelSelector: "of=" + f.Name})
	if err != nil {
		f.T.Fatal(err)
	}
	want := map[string]string{}
	for i := range list.Items {
		want[list.Items[i].Namespace+"/"+list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	w.Wait(func() error {
		if diff := cmp.Diff(want, w.Versions()); diff != "" {
			return fmt.Errorf("the copy differs (-API server +watch):\n%s", diff)
		}
		return nil
	})
}

func TestClusterStateWatch_TellsChangesInTheirOrder(t *testing.T) {
	t.Parallel()
	for _, shape := range []clusterstate.Shape{
		clusterstate.Shape_SHAPE_OBJECT, clusterstate.Shape_SHAPE_METADATA, clusterstate.Shape_SHAPE_TABLE,
	} {
		t.Run(shape.String(), func(t *testing.T) {
			t.Parallel()
			f := env.New(t)
			change(f, "first", "1")
			watch := f.ClusterState().Watch(labelled(f, shape))
			watch.WaitTold(harness.ToldSynced)
			change(f, "second", "1")
			change(f, "first", "2")
			cm := change(f, "second", "2")
			remove(f, "first")
			// Leaving what is selected is a deletion, and coming back an addition.
			for _, labels := range []map[string]string{nil, {"of": f.Name}} {
				cm.Labels = labels
				var err error
				if cm, err = f.Kube.CoreV1().ConfigMaps(f.Name).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			change(f, "last", "1")
			watch.WaitTold("ADDED last")
			want := []string{
				harness.ToldReset, "ADDED first", harness.ToldSynced, "ADDED second", "MODIFIED first", "MODIFIED second",
				"DELETED first", "DELETED second", "ADDED second", "ADDED last",
			}
			if diff := cmp.Diff(want, watch.Told()); diff != "" {
				t.Errorf("what the watch was told differs (-want +got):\n%s", diff)
			}
			catchUp(f, watch)
			item := watch.Item(f.Name + "/second")
			switch shape {
			case clusterstate.Shape_SHAPE_TABLE:
				if cells := item.GetCells(); len(cells) != len(watch.Columns()) || cells[0] != "second" || !age.MatchString(cells[2]) {
					t.Errorf("the row is %q of the columns %v", cells, watch.Columns())
				}
			case clusterstate.Shape_SHAPE_OBJECT:
				if err := contains(string(item.GetJson()), `"data":{"key":"2"}`); err != nil {
					t.Error(err)
				}
			default:
				if contains(string(item.GetJson()), `"data"`) == nil || contains(string(item.GetJson()), `"name":"second"`) != nil {
					t.Errorf("the metadata is %s", item.GetJson())
				}
			}
		})
	}
}

func TestClusterStateWatch_GoesOnByItsCursor(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	state := f.ClusterState()
	change(f, "stays", "1")
	change(f, "goes", "1")
	watch := state.Watch(labelled(f, clusterstate.Shape_SHAPE_OBJECT))
	watch.WaitTold(harness.ToldSynced)
	watch.Stop()
	change(f, "stays", "2")
	remove(f, "goes")
	change(f, "comes", "1")
	watch = state.Resume(watch)
	watch.WaitTold("ADDED comes")
	change(f, "last", "1")
	watch.WaitTold("ADDED last")
	told := watch.Told()
	if watch.Times(harness.ToldSynced) == 1 { // when is not said for one that goes on
		told = told[:0:0]
		for _, what := range watch.Told() {
			if what != harness.ToldSynced {
				told = append(told, what)
			}
		}
	}
	if diff := cmp.Diff([]string{"MODIFIED stays", "DELETED goes", "ADDED comes", "ADDED last"}, told); diff != "" {
		t.Errorf("what the watch was told differs (-want +got):\n%s", diff)
	}
	catchUp(f, watch)

	// A cursor of something else begins anew rather than lies.
	stranger := state.Watch(inNamespace(f, core("serviceaccounts"), clusterstate.Shape_SHAPE_OBJECT))
	stranger.WaitTold(harness.ToldSynced)
	anew := state.WatchFrom(labelled(f, clusterstate.Shape_SHAPE_OBJECT), stranger.Cursor())
	anew.Wait(func() error {
		if anew.Ended() == nil && anew.Times(harness.ToldReset) == 0 {
			return fmt.Errorf("told %v", anew.Told())
		}
		return nil
	})
	catchUp(f, anew)
}

func TestClusterStateWatch_OutlivesTheEndOfKas(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	kas := f.NewKas(time.Second)
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	state := f.ClusterStateAt(kas.APIAddress)
	change(f, "stays", "1")
	change(f, "goes", "1")
	watch := state.Watch(labelled(f, clusterstate.Shape_SHAPE_TABLE))
	watch.WaitTold(harness.ToldSynced)
	if err := kas.Stop(); err != nil {
		t.Fatal(err)
	}
	if code := watch.WaitEnded(); code != codes.Unavailable {
		t.Errorf("the watch ended with %v", watch.Ended())
	}
	change(f, "stays", "2")
	remove(f, "goes")
	change(f, "comes", "1")
	f.Start(kas)
	for { // RoR tries again, as it would for any server
		watch = state.Resume(watch)
		resumed := watch
		f.Eventually(func() error {
			if len(resumed.Told()) == 0 && resumed.Ended() == nil {
				return fmt.Errorf("neither told anything nor ended")
			}
			return nil
		})
		if watch.Ended() == nil {
			break
		}
		if err := isCode(watch.Ended(), codes.Unavailable); err != nil {
			t.Fatal(err)
		}
	}
	catchUp(f, watch)
	if n := watch.Times(harness.ToldReset); n != 0 {
		t.Errorf("begun anew though agentk knows what came after: %v", watch.Told())
	}
}

func TestClusterStateWatch_OutlivesTheEndOfAgentk(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	change(f, "stays", "1")
	change(f, "goes", "1")
	watch := f.ClusterState().Watch(labelled(f, clusterstate.Shape_SHAPE_OBJECT))
	watch.WaitTold(harness.ToldSynced)
	f.Agentk.Kill()
	remove(f, "goes")
	change(f, "comes", "1")
	f.Start(f.Agentk)
	catchUp(f, watch)
	// Another process knows nothing of what the one before has told.
	if n := watch.Times(harness.ToldReset); n != 2 {
		t.Errorf("begun anew %d times: %v", n, watch.Told())
	}
	change(f, "stays", "2")
	catchUp(f, watch)
}

func TestClusterStateWatch_ManyWatchersShareOne(t *testing.T) {
	t.Parallel()
	const watchers = 200
	f := env.NewStopped(t)
	kas := f.NewKas(time.Second) // whose metrics tell of this test alone
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	change(f, "first", "1")
	state := f.ClusterStateAt(kas.APIAddress)
	query := labelled(f, clusterstate.Shape_SHAPE_TABLE)
	one := state.Watch(query)
	one.WaitTold(harness.ToldSynced)
	alone := openWatches(f)
	all := []*harness.Watch{one}
	for range watchers - 1 {
		all = append(all, state.Watch(query))
	}
	for i, watch := range all {
		if i%50 == 49 { // some come while things change
			change(f, "first", fmt.Sprint("at ", i))
		}
		watch.WaitTold(harness.ToldSynced)
	}
	change(f, "second", "1")
	remove(f, "first")
	for _, watch := range all {
		catchUp(f, watch)
	}
	if n := openWatches(f); alone != 1 || n != alone {
		t.Errorf("%d watchers have %v watches at agentk, one alone has %v", watchers, n, alone)
	}
	if n := f.Metrics(kas.MetricsURL).Sum("kas_state_watchers"); n != watchers {
		t.Errorf("kas counts %v watchers", n)
	}
	for _, watch := range all {
		watch.Stop()
	}
	f.Eventually(func() error {
		if n := openWatches(f); n != 0 {
			return fmt.Errorf("%v watches are left at agentk though nobody watches", n)
		}
		return nil
	})
}

// openWatches is how many watches agentk serves.
func openWatches(f *harness.Fixture) float64 {
	f.T.Helper()
	return f.Metrics(f.Agentk.MetricsURL).Sum("agentk_query_watches")
}

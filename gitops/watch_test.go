package gitops_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// watching is a Watch that runs until the test ends.
type watching struct {
	clock  *testclock.FakeClock
	told   chan gitops.Readiness
	healed chan gitops.ObjectStatus
	// refused heals, and how many objects were last said to be contested.
	refused   atomic.Int64
	contested atomic.Int64
	// stop ends it.
	stop func()
}

// watching is a gitops.HealObserver.

func (w *watching) Healed(s gitops.ObjectStatus)   { w.healed <- s }
func (w *watching) HealFailed(inventory.ID, error) { w.refused.Add(1) }
func (w *watching) Contested(n int)                { w.contested.Store(int64(n)) }

func watch(t *testing.T, f *fakeCluster, p gitops.Project, r gitops.Result, o gitops.Observer) *watching {
	t.Helper()
	return watchAt(t, testclock.NewFakeClock(time.Now()), f, p, r, o)
}

func watchAt(t *testing.T, clock *testclock.FakeClock, f *fakeCluster, p gitops.Project, r gitops.Result, o gitops.Observer) *watching {
	t.Helper()
	w := &watching{
		clock: clock, told: make(chan gitops.Readiness, 1000),
		healed: make(chan gitops.ObjectStatus, 1000),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	p.Heals = w
	go func() {
		done <- gitops.Watch(ctx, f, p, r, o, gitops.WatchConfig{
			Clock: w.clock, OnReadiness: func(now gitops.Readiness) { w.told <- now },
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(w.stop)
	return w
}

const deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: app}, spec: {replicas: 1, progressDeadlineSeconds: 600}}`

// roll gives the deployment a status.
func roll(t *testing.T, w *world, id inventory.ID, replicas int64) {
	t.Helper()
	live, ok := w.Live(id)
	require.True(t, ok)
	u := live.Object.Unstructured()
	require.NoError(t, unstructured.SetNestedMap(u.Object, map[string]any{
		"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
		"conditions": []any{
			map[string]any{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
			map[string]any{"type": "Available", "status": "True"},
		},
	}, "status"))
	w.put(u, live.Ownership, false)
}

func TestWatch_TellsReadinessAsHealthChanges(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := project()
	p.ReconcileTimeout = time.Minute
	d := set(t, deployment, cm("a", "1"))
	result, o := run(t, f, p, d)
	require.Equal(t, gitops.HealthInProgress, o.get("app").Health)

	watching := watch(t, f, p, result, o)
	require.Equal(t, gitops.Readiness{Drifted: []inventory.ID{}}, <-watching.told)
	id := o.get("app").ID

	watching.clock.Step(time.Minute)
	late := <-watching.told
	require.Equal(t, []inventory.ID{id}, late.Late)

	roll(t, w, id, 1)
	ready := <-watching.told
	require.True(t, ready.Ready)
	require.Empty(t, ready.Late)
	require.Equal(t, gitops.HealthCurrent, o.get("app").Health)
	require.Equal(t, gitops.ActionCreated, o.get("app").Action, "the run's action stays")
}

func TestWatch_TakesOffWhatWasHeldByAFinalizer(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := project()
	p.PruneTimeout = time.Minute
	run(t, f, p, set(t, cm("held", "1"), cm("rest", "1")))
	w.lingering["held"] = true
	result, o := run(t, f, p, set(t, cm("rest", "1")))
	require.Zero(t, result.Failed)
	require.Equal(t, gitops.ActionPruning, o.get("held").Action)
	require.Equal(t, "being deleted, held by finalizer example.com/hold", o.get("held").Message)
	require.True(t, w.recorded(t)["held"])

	watching := watch(t, f, p, result, o)
	require.False(t, (<-watching.told).Ready)
	watching.clock.Step(time.Minute)
	require.Equal(t, []inventory.ID{cmID("held")}, (<-watching.told).Late)

	w.remove(cmID("held"))
	require.False(t, (<-watching.told).Ready, "it is still recorded")
	require.True(t, (<-watching.told).Ready)
	require.Equal(t, gitops.ActionPruned, o.get("held").Action)
	require.False(t, w.recorded(t)["held"])
	require.Equal(t, []string{"held"}, o.removed)
}

func TestRun_DoesNotDeleteTwiceWhatIsBeingDeleted(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("held", "1"), cm("rest", "1")))
	w.lingering["held"] = true
	run(t, f, project(), set(t, cm("rest", "1")))
	f.calls = nil
	_, o := run(t, f, project(), set(t, cm("rest", "1")))
	require.Equal(t, []string{"resolve"}, f.calls)
	require.Equal(t, gitops.ActionPruning, o.get("held").Action)
}

func TestWatch_TellsOnceWhereThereIsNothing(t *testing.T) {
	f := newWorld().process()
	result, o := run(t, f, project(), set(t))
	require.True(t, (<-watch(t, f, project(), result, o).told).Ready)
}

func TestWatch_TellsWhenWhatStoodInTheWayIsGone(t *testing.T) {
	w := newWorld()
	other := project()
	other.Key = "9-9"
	foreign := set(t, cm("a", "theirs"))
	run(t, &fakeCluster{world: w, fault: func(string) error { return nil }, inv: inventory.New("9-9")}, other, foreign)

	f := w.process()
	f.inv = inventory.New(owner)
	result, o := run(t, f, project(), set(t, cm("a", "1"), cm("b", "1")))
	require.Equal(t, 1, result.Failed)
	require.Equal(t, gitops.ActionSkipped, o.get("a").Action)
	watching := watch(t, f, project(), result, o)
	require.Empty(t, (<-watching.told).Drifted)

	w.remove(cmID("a"))
	require.Equal(t, []inventory.ID{cmID("a")}, (<-watching.told).Drifted, "now it can be applied")
}

func TestWatch_ManyDeletionsThatEndCostFewInventoryWrites(t *testing.T) {
	const n = 20
	w := newWorld()
	f := w.process()
	p := project()
	docs := []string{cm("rest", "1")}
	for i := range n {
		name := fmt.Sprintf("held-%02d", i)
		docs = append(docs, cm(name, "1"))
		w.lingering[name] = true
	}
	run(t, f, p, set(t, docs...))
	result, o := run(t, f, p, set(t, docs[0]))
	pruned := &prunedNames{observer: o, names: make(chan string, n)}
	watching := watch(t, f, p, result, pruned)
	require.False(t, (<-watching.told).Ready)
	f.calls = nil
	for i := range n {
		name := fmt.Sprintf("held-%02d", i)
		w.remove(cmID(name))
		require.Equal(t, name, <-pruned.names)
	}
	require.True(t, (<-watching.told).Ready)
	require.Equal(t, map[string]bool{"rest": true}, w.recorded(t))
	require.Equal(t, []string{"save"}, f.calls)
}

// prunedNames tells of objects that are gone.
type prunedNames struct {
	*observer
	names chan string
}

func (p *prunedNames) Object(s gitops.ObjectStatus) {
	p.observer.Object(s)
	if s.Action == gitops.ActionPruned {
		p.names <- s.ID.Name
	}
}

// hasty is a clock whose timers fire at once, as they seem to where the machine is so
// busy that the time has passed before anybody gets to look.
type hasty struct{ *testclock.FakeClock }

func (h hasty) NewTimer(d time.Duration) clock.Timer {
	t := h.FakeClock.NewTimer(d)
	h.Step(d)
	return t
}

func TestWatch_IsNotReadyBeforeItHasLooked(t *testing.T) {
	w := newWorld()
	f := w.process()
	result, o := run(t, f, project(), set(t, deployment, cm("a", "1")))
	require.Equal(t, gitops.HealthInProgress, o.get("app").Health)
	for range 50 { // whichever comes first
		ctx, cancel := context.WithCancel(t.Context())
		var first *gitops.Readiness
		require.NoError(t, gitops.Watch(ctx, f, project(), result, o, gitops.WatchConfig{
			Clock: hasty{testclock.NewFakeClock(time.Now())},
			OnReadiness: func(r gitops.Readiness) {
				if first == nil {
					first = &r
				}
				cancel()
			},
		}))
		require.False(t, first.Ready)
	}
}

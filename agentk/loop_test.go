package agentk

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

// loopRig is a worker's loop at work, without its connection.
type loopRig struct {
	worker *worker
	engine *fakeEngine
	clock  *clocktesting.FakeClock
}

func startLoop(t *testing.T, p *agentcfg.ManifestProject, engine *fakeEngine) *loopRig {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	r := &loopRig{engine: engine, clock: clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))}
	r.worker = newWorker(workerConfig{log: testkit.Logger(t), engine: engine, clock: r.clock, metrics: m}, 5, p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.worker.loop(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

func (r *loopRig) put(commit string) {
	r.worker.sets.Put(&desired.Set{Desired: gitops.Desired{Commit: commit}, ProjectID: 10})
}

// awaitRuns waits until the engine has run n times and the loop waits for the clock.
func (r *loopRig) awaitRuns(t *testing.T, n int) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if got := len(r.engine.commits()); got != n {
			return fmt.Errorf("%d runs, want %d", got, n)
		}
		return nil
	})
}

// awaitWatches waits until what the engine's n-th run has left is watched.
func (r *loopRig) awaitWatches(t *testing.T, n int) {
	t.Helper()
	testkit.Eventually(t, func() error {
		r.engine.mu.Lock()
		defer r.engine.mu.Unlock()
		if r.engine.watches != n {
			return fmt.Errorf("%d watches, want %d", r.engine.watches, n)
		}
		return nil
	})
}

func (r *loopRig) awaitTimer(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if !r.clock.HasWaiters() {
			return errors.New("nobody waits")
		}
		return nil
	})
}

func TestLoop_TriesAgainWhenTheRunCannotGoOn(t *testing.T) {
	engine := newFakeEngine()
	engine.run = func(_ context.Context, n int, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
		if n <= 3 {
			return gitops.Result{}, fmt.Errorf("load inventory: %w", gitops.ErrUnavailable)
		}
		return created(d, o), nil
	}
	r := startLoop(t, project("a"), engine)
	r.put("c1")
	for n := 1; n <= 3; n++ {
		r.awaitRuns(t, n)
		r.awaitTimer(t)
		r.clock.Step(10 * time.Second)
	}
	r.awaitRuns(t, 4)
	testkit.Eventually(t, func() error {
		if testutil.CollectAndCount(r.worker.metrics.lastApplied) != 1 {
			return errors.New("not applied")
		}
		return nil
	})
}

func TestLoop_FailedObjectsAreTriedAgainWithoutANewCommit(t *testing.T) {
	engine := newFakeEngine()
	engine.run = func(_ context.Context, n int, _ gitops.Desired, _ gitops.Observer) (gitops.Result, error) {
		return gitops.Result{Total: 2, Failed: max(0, 3-n)}, nil
	}
	r := startLoop(t, project("a"), engine)
	r.put("c1")
	r.awaitRuns(t, 1)
	r.awaitTimer(t)
	r.clock.Step(3 * time.Second)
	require.True(t, r.clock.HasWaiters(), "at least 3.75 s")
	r.clock.Step(4 * time.Second)
	r.awaitRuns(t, 2)
	r.awaitTimer(t)
	r.clock.Step(6 * time.Second)
	require.True(t, r.clock.HasWaiters(), "at least 7.5 s")
	r.clock.Step(7 * time.Second)
	r.awaitRuns(t, 3)

	// All is well now: time alone is no reason to run again.
	r.awaitWatches(t, 3)
	require.False(t, r.clock.HasWaiters())
}

func TestLoop_NewerSetCutsAWaitShort(t *testing.T) {
	engine := newFakeEngine()
	engine.run = func(_ context.Context, _ int, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
		if d.Commit == "c1" {
			return gitops.Result{}, gitops.ErrUnavailable
		}
		return created(d, o), nil
	}
	r := startLoop(t, project("a"), engine)
	r.put("c1")
	r.awaitRuns(t, 1)
	r.awaitTimer(t)
	r.put("c2")
	r.awaitRuns(t, 2)
	require.Equal(t, []string{"c1", "c2"}, engine.commits())
}

func TestLoop_MendsDriftAtOnceAndQuarrelsSlowly(t *testing.T) {
	engine := newFakeEngine()
	r := startLoop(t, project("a"), engine)
	drift := gitops.Readiness{Ready: true, Drifted: []inventory.ID{{Name: "x"}}}
	r.put("c1")
	r.awaitRuns(t, 1)
	for n := 2; n < 14; n++ { // 20 ms, doubled
		engine.readiness <- drift
		r.awaitTimer(t)
		r.clock.Step(25 * time.Millisecond << (n - 2))
		r.awaitRuns(t, n)
	}
	engine.readiness <- drift
	r.awaitTimer(t)
	r.clock.Step(30 * time.Second)
	require.True(t, r.clock.HasWaiters(), "by now somebody else wants it otherwise")
	r.clock.Step(5 * time.Minute)
	r.awaitWatches(t, 14) // from when on it has been quiet
	r.clock.Step(driftQuiet + 1)
	engine.readiness <- drift
	r.awaitTimer(t)
	r.clock.Step(25 * time.Millisecond)
	r.awaitRuns(t, 15)
}

func TestLoop_DryRunWatchesNothing(t *testing.T) {
	engine := newFakeEngine()
	p := project("a")
	p.DryRunStrategy = "server"
	r := startLoop(t, p, engine)
	r.put("c1")
	r.awaitRuns(t, 1)
	r.put("c2")
	r.awaitRuns(t, 2)
	require.Zero(t, engine.watches)
	require.Zero(t, testutil.CollectAndCount(r.worker.metrics.lastApplied), "nothing was applied")
}

func TestLoop_CountsHealsAndContests(t *testing.T) {
	engine := newFakeEngine()
	engine.watch = func(p gitops.Project) {
		p.Heals.Healed(gitops.ObjectStatus{})
		p.Heals.Healed(gitops.ObjectStatus{Contest: &gitops.Contest{}})
		p.Heals.HealFailed(inventory.ID{}, context.DeadlineExceeded)
		p.Heals.Contested(3)
	}
	r := startLoop(t, project("a"), engine)
	r.put("c1")
	m := r.worker.metrics
	testkit.Eventually(t, func() error {
		if n := testutil.ToFloat64(m.contested.WithLabelValues("a")); n != 3 {
			return fmt.Errorf("%v objects contested", n)
		}
		return nil
	})
	require.InDelta(t, 2, testutil.ToFloat64(m.heals.WithLabelValues("ok")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.heals.WithLabelValues("error")), 0)
	engine.mu.Lock()
	defer engine.mu.Unlock()
	require.Equal(t, "5", engine.projects[0].Agent)
	require.Equal(t, "a", engine.projects[0].Name, "as kasctl approve takes it")
}

package gitops

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/inventory"
)

const (
	// servedTimeout is how long an accepted CRD may take to be served.
	servedTimeout = 20 * time.Second
	// firstServedPause is how long after the first question about that the second
	// comes.
	firstServedPause = 25 * time.Millisecond
	// goneTimeout is how long a deletion may take to show in what Live returns: gone
	// or being deleted.
	goneTimeout = 5 * time.Second
)

// await calls done, at first and then whenever something about the kinds may have
// changed or, if it is not zero, another poll has passed, until it returns true, the
// timeout has passed or ctx ends.
func (r *run) await(ctx context.Context, kinds []schema.GroupKind, timeout, poll time.Duration, done func() (bool, error)) error {
	wake := make(chan struct{}, 1)
	stop := r.cluster.Notify(kinds, func(inventory.ID) {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	defer stop()
	clk := clockOf(r.project.Clock)
	deadline := clk.NewTimer(timeout)
	defer deadline.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		var tick <-chan time.Time
		stopTick := func() bool { return false }
		if poll > 0 {
			timer := clk.NewTimer(poll)
			tick, stopTick = timer.C(), timer.Stop
			poll = min(poll*2, time.Second)
		}
		expired := false
		select {
		case <-wake:
		case <-tick:
		case <-deadline.C():
			expired = true
		case <-ctx.Done():
		}
		stopTick()
		if expired || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func clockOf(c clock.Clock) clock.Clock {
	if c == nil {
		return clock.RealClock{}
	}
	return c
}

// awaitServed waits until the API server serves the kinds that CRDs of the set
// define. A CRD that is not accepted is not waited for.
func (r *run) awaitServed(ctx context.Context, kinds []schema.GroupVersionKind) error {
	return r.await(ctx, []schema.GroupKind{definitionKind}, servedTimeout, firstServedPause, func() (bool, error) {
		found, err := r.cluster.Resolve(ctx, kinds)
		if err != nil {
			return false, fmt.Errorf("wait for CRDs to be served: %w", err)
		}
		return allServed(found) || !r.definitionsPending(), nil
	})
}

func allServed(kinds map[schema.GroupVersionKind]Kind) bool {
	for _, kind := range kinds {
		if kind.Err != nil {
			return false
		}
	}
	return true
}

// definitionsPending says that a CRD of the set may yet become served.
func (r *run) definitionsPending() bool {
	for i := range r.desired.Set.Objects {
		id := r.desired.Set.Objects[i].ID
		if !isDefinition(id) {
			continue
		}
		id.Namespace = ""
		live, ok := r.cluster.Live(id)
		if !ok {
			continue
		}
		if health, _ := r.project.health(id, live, ok); health != HealthFailed {
			return true
		}
	}
	return false
}

// awaitNeeds waits until everything that the steps of a wave depend on is healthy,
// or can no longer become so, or the project's timeout has passed. What is applied
// already is looked after meanwhile.
func (r *run) awaitNeeds(ctx context.Context, wave []Step) error {
	needs := map[inventory.ID]struct{}{}
	var kinds []schema.GroupKind
	for i := range wave {
		for _, id := range wave[i].Needs {
			if _, ok := needs[id]; !ok {
				needs[id] = struct{}{}
				kinds = append(kinds, id.GroupKind)
			}
		}
	}
	if len(needs) == 0 || r.project.DryRun != DryRunNone {
		return nil
	}
	timeout := r.project.ReconcileTimeout
	if timeout <= 0 {
		timeout = time.Hour
	}
	settled := func() bool {
		for id := range needs {
			if w := r.status[id]; w == nil || !applied(w.status.Action) {
				delete(needs, id) // it failed: nothing to wait for
				continue
			}
			live, ok := r.cluster.Live(id)
			if health, _ := r.project.health(id, live, ok); health == HealthCurrent || health == HealthFailed {
				delete(needs, id)
			}
		}
		return len(needs) == 0
	}
	if settled() {
		return nil
	}
	return r.tend(ctx, len(needs), func(ctx context.Context) error {
		return r.await(ctx, kinds, timeout, 0, func() (bool, error) { return settled(), nil })
	})
}

// tend looks after what is applied, as Watch does, while wait waits: that may be for
// long, and what somebody else changes must not stay so until then. wait must tell
// the observer nothing and leave r as it is. needs is how many objects it waits for.
func (r *run) tend(ctx context.Context, needs int, wait func(context.Context) error) error {
	if err := r.save(ctx); err != nil {
		return err
	}
	r.phase(PhaseNeeds, needs)
	var objects []watched
	for _, id := range r.order {
		if w := r.status[id]; w != nil && applied(w.status.Action) {
			objects = append(objects, *w)
		}
	}
	w := newWatcher(r.cluster, r.project, objects, r.observer, WatchConfig{})
	waiting, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	tending, stopTending := context.WithCancel(ctx)
	waited := make(chan error, 1)
	go func() {
		defer stopTending()
		waited <- wait(waiting)
	}()
	err := w.follow(tending)
	stopWaiting()
	waitErr := <-waited
	for i := range w.objects {
		*r.status[w.objects[i].status.ID] = w.objects[i]
	}
	r.lost = w.lost
	if err != nil {
		return err
	}
	return waitErr
}

// ready says whether a step may be carried out, and settles it if it may not.
func (r *run) ready(s *Step) bool {
	for _, id := range s.Needs {
		message := ""
		if w := r.status[id]; w == nil || !applied(w.status.Action) && r.project.DryRun == DryRunNone {
			message = "which could not be applied"
		} else if r.project.DryRun == DryRunNone {
			live, ok := r.cluster.Live(id)
			if health, why := r.project.health(id, live, ok); health != HealthCurrent {
				message = "which is not healthy: " + why
			}
		}
		if message != "" {
			s.Status.Action = ActionSkipped
			s.Status.Message = fmt.Sprintf("depends on %s, %s", describe(id), message)
			r.tell(s)
			return false
		}
	}
	return true
}

// awaitGone waits until every deletion shows: those objects that are gone are
// forgotten, those that are being deleted are left to Watch.
func (r *run) awaitGone(ctx context.Context) error {
	leaving := map[inventory.ID]*watched{}
	var kinds []schema.GroupKind
	seen := map[schema.GroupKind]struct{}{}
	for id, w := range r.status {
		if w.leaving && w.status.Action == ActionPruning {
			leaving[id] = w
			if _, ok := seen[id.GroupKind]; !ok {
				seen[id.GroupKind] = struct{}{}
				kinds = append(kinds, id.GroupKind)
			}
		}
	}
	if len(leaving) == 0 {
		return nil
	}
	r.phase(PhaseGone, len(leaving))
	return r.await(ctx, kinds, goneTimeout, 0, func() (bool, error) {
		for id, w := range leaving {
			live, ok := r.cluster.Live(id)
			if !ok || live.UID != w.uid {
				r.pruned(id, w)
				delete(leaving, id)
			} else if beingDeleted(live) {
				w.status.Health, w.status.Message = HealthOf(id, live, true)
				r.observer.Object(w.status)
				delete(leaving, id)
			}
		}
		return len(leaving) == 0, nil
	})
}

// pruned settles an object that is gone.
func (r *run) pruned(id inventory.ID, w *watched) {
	w.status.Action, w.status.Health, w.status.Message = ActionPruned, HealthNotFound, ""
	r.observer.Object(w.status)
	r.forget(id)
}

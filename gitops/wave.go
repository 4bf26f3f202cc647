package gitops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kas-agentk/kas/inventory"
)

// requestTimeout is how long one request may take. A webhook may use thirty
// seconds of it.
const requestTimeout = time.Minute

// detach returns a context that outlives ctx: a request in flight is never cut off,
// for whether it took effect would not be known.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
}

// wave carries out steps side by side. It returns an error if the API server cannot
// be reached or ctx has ended; the steps in flight are finished then, and the
// others left pending.
func (r *run) wave(ctx context.Context, steps []Step) error {
	if r.project.DryRun == DryRunClient {
		r.pretend(steps)
		return nil
	}
	return r.batch(ctx, steps, r.ready, r.send, r.settle)
}

// batch is one with the project's limit.
func (r *run) batch(ctx context.Context, steps []Step, ready func(*Step) bool,
	send func(context.Context, *Step) outcome, settle func(outcome) error,
) error {
	b := batch{
		clock: clockOf(r.project.Clock), limit: r.project.Limit, parallel: r.project.parallel(), steps: steps,
		ready: ready, send: send, settle: settle, throttled: r.throttled,
	}
	defer r.trouble("")
	return b.run(ctx)
}

// throttled tells that a step has to wait.
func (r *run) throttled(s *Step, err error) {
	r.trouble("the API server is busy: fewer requests are sent, and those that it put off are sent again")
	message := "put off: " + err.Error()
	if s.Status.Message != message {
		s.Status.Message = message
		r.tell(s)
	}
}

// trouble tells an observer that wants to know what slows the run down; empty:
// nothing does.
func (r *run) trouble(message string) {
	if r.troubled == message {
		return
	}
	r.troubled = message
	if o, ok := r.observer.(TroubleObserver); ok {
		o.Trouble(message)
	}
}

// send does the requests of a step, in a worker.
func (r *run) send(ctx context.Context, s *Step) outcome {
	request, cancel := detach(ctx)
	defer cancel()
	dry := r.project.DryRun == DryRunServer
	got := outcome{step: s}
	if s.Object == nil {
		got.err = r.cluster.Remove(request, Remove{
			ID: s.Status.ID, UID: s.Before.UID, ResourceVersion: s.Before.ResourceVersion, Owner: s.Before.Owner,
			Propagation: r.project.Propagation, Detach: s.Detach, DryRun: dry,
		})
		return got
	}
	a := r.application(s, dry)
	got.live, got.digest, got.err = apply(request, r.cluster, a)
	var immutable *ImmutableError
	if errors.As(got.err, &immutable) {
		got.live, got.digest, got.err = r.recreate(ctx, s, a, immutable)
	}
	return got
}

// application of a step.
func (r *run) application(s *Step, dryRun bool) application {
	return application{
		object: s.Object, id: s.Status.ID, version: s.Status.Version, subs: s.subs,
		yield: s.optOut.fields, owner: r.inv.ID(), dryRun: dryRun,
	}
}

// settle records what a step came to. The error stops the wave.
func (r *run) settle(got outcome) error {
	s := got.step
	if got.err != nil && s.removed {
		// What is on record is gone, by our own hand: whichever manifest comes next is
		// to be applied.
		r.inv.Set(s.Status.ID, inventory.Entry{})
		r.mustRecord = true
	}
	switch {
	case errors.Is(got.err, ErrUnavailable), errors.Is(got.err, context.Canceled):
		return fmt.Errorf("%s: %w", describe(s.Status.ID), got.err)
	case s.Object == nil && errors.Is(got.err, ErrTakenOver):
		r.tookOver(s)
	case got.err != nil:
		if errors.Is(got.err, ErrNoNamespace) || errors.Is(got.err, ErrNamespaceEnds) {
			if r.result.homes == nil {
				r.result.homes = map[string]struct{}{}
			}
			r.result.homes[s.Status.ID.Namespace] = struct{}{}
		}
		fail(s, got.err.Error())
		r.tell(s)
	case r.project.DryRun == DryRunServer:
		s.Status.Action, s.Status.Message = ActionSkipped, "dry run: "+intent(s)+", and the API server agrees"
		r.tell(s)
	case s.Object == nil && s.Detach:
		r.forget(s.Status.ID)
	case s.Object == nil:
		s.Status.Action, s.Status.Message = ActionPruning, "deletion has begun"
		r.tell(s)
	default:
		r.settleApply(s, got)
	}
	return nil
}

func (r *run) settleApply(s *Step, got outcome) {
	switch {
	case !s.exists():
		s.Status.Action = ActionCreated
	case s.Before.ResourceVersion == got.live.ResourceVersion:
		s.Status.Action = ActionUnchanged
	default:
		s.Status.Action = ActionConfigured
	}
	s.Status.Health, s.Status.Message = r.project.health(s.Status.ID, got.live, true)
	if s.note != "" {
		s.Status.Message = s.note
	}
	r.project.Healing.keepNote(s.Status.ID, got.digest, s.note)
	r.inv.Set(s.Status.ID, inventory.Entry{Digest: got.digest, Ownership: got.live.Ownership})
	r.tell(s)
}

// pretend is the client's dry run.
func (r *run) pretend(steps []Step) {
	for i := range steps {
		s := &steps[i]
		s.Status.Action, s.Status.Message = ActionSkipped, "dry run: "+intent(s)
		r.tell(s)
	}
}

// intent says what a step would do.
func intent(s *Step) string {
	switch {
	case s.note != "":
		return s.note
	case s.Object == nil && s.Detach:
		return "it would be let go of"
	case s.Object == nil:
		return "it would be deleted"
	case s.exists():
		return "it would be configured"
	default:
		return "it would be created"
	}
}

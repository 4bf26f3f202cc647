package gitops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

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

// outcome of a step.
type outcome struct {
	step *Step
	live Live
	err  error
}

// wave carries out steps side by side. It returns an error if the API server cannot
// be reached or ctx has ended; the steps in flight are finished then, and the
// others left pending.
func (r *run) wave(ctx context.Context, steps []Step) error {
	if r.project.DryRun == DryRunClient {
		r.pretend(steps)
		return nil
	}
	parallel := r.project.Parallel
	if parallel <= 0 {
		parallel = DefaultParallel
	}
	parallel = min(parallel, len(steps))
	jobs := make(chan *Step)
	outcomes := make(chan outcome, parallel)
	var workers errgroup.Group
	for range parallel {
		workers.Go(func() error {
			for step := range jobs {
				live, err := r.send(ctx, step)
				outcomes <- outcome{step: step, live: live, err: err}
			}
			return nil
		})
	}
	err := r.feed(ctx, steps, jobs, outcomes)
	close(jobs)
	return errors.Join(err, workers.Wait())
}

// feed hands steps to the workers and settles what comes back.
func (r *run) feed(ctx context.Context, steps []Step, jobs chan<- *Step, outcomes <-chan outcome) error {
	var stop error
	done := ctx.Done()
	for next, flying := 0, 0; ; {
		if stop == nil {
			stop = ctx.Err()
		}
		var free chan<- *Step
		var step *Step
		if stop == nil && next < len(steps) {
			step = &steps[next]
			if !r.ready(step) {
				next++
				continue
			}
			free = jobs
		}
		if free == nil && flying == 0 {
			return stop
		}
		select {
		case free <- step:
			next++
			flying++
		case got := <-outcomes:
			flying--
			if err := r.settle(got); err != nil && stop == nil {
				stop = err
			}
		case <-done:
			done = nil
		}
	}
}

// send does the one request of a step, in a worker.
func (r *run) send(ctx context.Context, s *Step) (Live, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	id, dry := s.Status.ID, r.project.DryRun == DryRunServer
	if s.Object == nil {
		return Live{}, r.cluster.Remove(ctx, Remove{
			ID: id, UID: s.Before.UID, Propagation: r.project.Propagation, Detach: s.Detach, DryRun: dry,
		})
	}
	data, err := payload(s.Object, id, r.inv.ID())
	if err != nil {
		return Live{}, err
	}
	return r.cluster.Apply(ctx, Apply{ID: id, Version: s.Status.Version, JSON: data, DryRun: dry})
}

// settle records what a step came to. The error stops the wave.
func (r *run) settle(got outcome) error {
	s := got.step
	switch {
	case errors.Is(got.err, ErrUnavailable):
		return fmt.Errorf("%s: %w", describe(s.Status.ID), got.err)
	case got.err != nil:
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
		r.settleApply(s, got.live)
	}
	return nil
}

func (r *run) settleApply(s *Step, live Live) {
	switch {
	case !s.exists():
		s.Status.Action = ActionCreated
	case s.Before.ResourceVersion == live.ResourceVersion:
		s.Status.Action = ActionUnchanged
	default:
		s.Status.Action = ActionConfigured
	}
	s.Status.Health, s.Status.Message = HealthOf(s.Status.ID, live, true)
	r.inv.Set(s.Status.ID, inventory.Entry{
		Digest: inventory.Short(s.Object.Digest), Ownership: live.Ownership,
	})
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

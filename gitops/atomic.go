package gitops

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kas-agentk/kas/inventory"
)

// trial asks the API server whether it would accept all that a plan applies, before
// anything is written. What cannot be asked about, because its kind or its namespace
// comes with the same commit, is taken to be fine; and so is the future: what is
// refused after the trial leaves the commit half applied.
type trial struct {
	run   *run
	steps []Step
	// refused says why, by object.
	refused map[inventory.ID]string
	// namespaces of the set.
	namespaces map[string]struct{}
}

// agreed holds the trial of an atomic project. If it returns false, the statuses are
// told and there is nothing left to do.
func (r *run) agreed(ctx context.Context, steps *Steps) (bool, error) {
	if !r.project.Atomic || r.project.DryRun != DryRunNone {
		return true, nil
	}
	t := trial{run: r, refused: map[inventory.ID]string{}, namespaces: map[string]struct{}{}}
	for i := range r.desired.Set.Objects {
		if id := r.desired.Set.Objects[i].ID; id.GroupKind == namespaceKind {
			t.namespaces[id.Name] = struct{}{}
		}
	}
	failed := 0
	for i := range steps.Verdicts {
		if s := &steps.Verdicts[i]; s.Object != nil && !applied(s.Status.Action) && !premature(s, steps) {
			failed++
		}
	}
	t.steps = slices.Concat(append([][]Step{steps.Definitions}, steps.Waves...)...)
	if r.desired.Set.Complete && failed == 0 {
		r.phaseOf(PhaseTry, t.steps)
		if err := r.batch(ctx, t.steps, t.ready, t.send, t.settle); err != nil {
			return false, err
		}
	}
	failed += len(t.refused)
	if r.desired.Set.Complete && failed == 0 || failed == 0 && len(t.steps) == 0 {
		return true, nil
	}
	t.holdBack(steps, failed)
	return false, nil
}

// premature says that a step only failed because of a kind that a CRD of the set
// defines.
func premature(s *Step, steps *Steps) bool {
	return s.lacks != nil && slices.Contains(steps.Unserved, *s.lacks)
}

// ready says whether the API server can be asked about the object already.
func (t *trial) ready(s *Step) bool {
	for i := range s.subs {
		if slices.Contains(s.Needs, s.subs[i].source) {
			return false // its source changes with this commit
		}
	}
	return true
}

// send asks about one object, in a worker.
func (t *trial) send(ctx context.Context, s *Step) outcome {
	request, cancel := detach(ctx)
	defer cancel()
	a := t.run.application(s, true)
	got := outcome{step: s}
	got.live, got.digest, got.err = apply(request, t.run.cluster, a)
	var immutable *ImmutableError
	if errors.As(got.err, &immutable) {
		got.live, got.digest, got.err = t.run.recreate(ctx, s, a, immutable)
	}
	return got
}

// settle notes the answer.
func (t *trial) settle(got outcome) error {
	id := got.step.Status.ID
	_, inSet := t.namespaces[id.Namespace]
	switch {
	case got.err == nil, errors.Is(got.err, ErrNoNamespace) && inSet:
		return nil
	case errors.Is(got.err, ErrUnavailable), errors.Is(got.err, context.Canceled):
		return fmt.Errorf("%s: %w", describe(id), got.err)
	default:
		t.refused[id] = got.err.Error()
		return nil
	}
}

// holdBack tells what becomes of a commit that is not applied.
func (t *trial) holdBack(steps *Steps, failed int) {
	r := t.run
	reason := fmt.Sprintf("atomic, and %d objects were refused", failed)
	switch failed {
	case 1:
		reason = "atomic, and 1 object was refused"
	case 0:
		reason = "atomic, and the commit could not be read completely"
	}
	for i := range steps.Verdicts {
		s := &steps.Verdicts[i]
		if s.Object != nil && premature(s, steps) {
			s.Status.Action, s.Status.Message = ActionSkipped, "held back: "+reason
		}
		r.tell(s)
	}
	for i := range t.steps {
		s := &t.steps[i]
		if message, refused := t.refused[s.Status.ID]; refused {
			fail(s, message)
		} else {
			s.Status.Action, s.Status.Message = ActionSkipped, "held back: "+reason
		}
		r.tell(s)
	}
	for _, wave := range steps.Prune {
		for i := range wave {
			wave[i].Status.Action = ActionSkipped
			wave[i].Status.Message = "left the repository, not deleted: the project is " + reason
			r.tell(&wave[i])
		}
	}
	r.result.Held, r.result.Waiting = steps.Held, steps.Waiting
	r.result.HeldBack = "nothing of the commit was applied: the project is " + reason
}

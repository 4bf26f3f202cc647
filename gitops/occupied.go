package gitops

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/inventory"
)

// ErrTakenOver is wrapped by errors of Cluster.Remove.
var ErrTakenOver = errors.New("the object belongs to somebody else by now")

const (
	// MaxOccupants is how many objects Cluster.Occupants returns at most.
	MaxOccupants = 100
	// shownOccupants is how many of them people are told of.
	shownOccupants = 3
	// parallelQuestions is how many namespaces and CRDs are asked about at a time,
	// each of which takes many requests.
	parallelQuestions = 4
)

// tenancy is what was found in a namespace or of a CRD's kind.
type tenancy struct {
	ids  []inventory.ID
	more bool
	err  error
}

// vacant returns the steps of a prune wave without the namespaces and CRDs with
// which something would go that the project does not prune itself. Those are held
// until a person has approved, and told of.
func (r *run) vacant(ctx context.Context, wave []Step) ([]Step, error) {
	if r.project.DryRun == DryRunClient || approved(r.project.Guard, r.desired) {
		return wave, nil
	}
	found := make([]*tenancy, len(wave))
	var g errgroup.Group
	g.SetLimit(parallelQuestions)
	asked := false
	for i := range wave {
		id := wave[i].Status.ID
		if wave[i].Detach || id.GroupKind != namespaceKind && !isDefinition(id) {
			continue
		}
		asked = true
		g.Go(func() error {
			t := &tenancy{}
			t.ids, t.more, t.err = r.cluster.Occupants(ctx, id, r.leaving)
			found[i] = t
			if errors.Is(t.err, ErrUnavailable) {
				return fmt.Errorf("ask what is in %s: %w", describe(id), t.err)
			}
			return ctx.Err()
		})
	}
	if !asked {
		return wave, nil
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var vacant []Step
	for i := range wave {
		if t := found[i]; t == nil || t.err == nil && len(t.ids) == 0 {
			vacant = append(vacant, wave[i])
		} else {
			r.hold(&wave[i], t.reason(wave[i].Status.ID))
		}
	}
	return vacant, nil
}

// leaving says that this run deletes the object, or that it is being deleted.
func (r *run) leaving(id inventory.ID) bool {
	w, ok := r.status[id]
	if !ok || !w.leaving {
		return false
	}
	_, deleted := r.deletions[id]
	return w.status.Action == ActionPruning || deleted && w.status.Action != ActionFailed
}

// hold settles a step that waits for a person.
func (r *run) hold(s *Step, reason string) {
	delete(r.deletions, s.Status.ID)
	s.Status.Action, s.Status.Message = ActionSkipped, "left the repository, not deleted: "+reason
	r.tell(s)
	r.result.Held = append(r.result.Held, s.Status.ID)
	r.result.Waiting++
	r.result.HeldBack = addSentence(r.result.HeldBack, fmt.Sprintf(
		"%s is not deleted: %s: delete what should go, or approve of it all: %s",
		describe(s.Status.ID), reason, r.project.howToApprove(r.desired)))
}

// tookOver settles the removal of an object that somebody else took over in the last
// moment. What that means for the inventory is for the next Run to decide, which Watch
// asks for as soon as it sees the new owner.
func (r *run) tookOver(s *Step) {
	s.Status.Action, s.Status.Message, s.foreign = ActionSkipped, "left the repository, not deleted: "+ErrTakenOver.Error(), true
	r.result.Waiting++
	r.tell(s)
}

// reason is for people.
func (t *tenancy) reason(home inventory.ID) string {
	if t.err != nil {
		return fmt.Sprintf("it cannot be told what would be lost with it: %v", t.err)
	}
	shown := make([]string, 0, shownOccupants)
	for _, id := range t.ids[:min(len(t.ids), shownOccupants)] {
		shown = append(shown, describe(id))
	}
	more := ""
	if rest := len(t.ids) - len(shown); rest > 0 {
		more = fmt.Sprintf(" and %d more", rest)
		if t.more {
			more = fmt.Sprintf(" and more than %d others", rest)
		}
	}
	what := "it holds"
	if isDefinition(home) {
		what = "it has instances,"
	}
	return fmt.Sprintf("%s objects that this project does not delete: %s%s", what, strings.Join(shown, ", "), more)
}

// deletionsOf lists what prune waves delete.
func deletionsOf(waves [][]Step) map[inventory.ID]struct{} {
	out := map[inventory.ID]struct{}{}
	for _, wave := range waves {
		for i := range wave {
			if !wave[i].Detach {
				out[wave[i].Status.ID] = struct{}{}
			}
		}
	}
	return out
}

// flag marks what the guard holds in the inventory, and what came back as not held
// any more. It is saved with the next save, which is before the first apply.
func (r *run) flag(steps *Steps) {
	if r.project.DryRun != DryRunNone {
		return
	}
	for _, id := range steps.Held {
		if entry, ok := r.inv.Get(id); ok {
			entry.Held = true
			r.inv.Set(id, entry)
		}
	}
	for i := range steps.Verdicts {
		s := &steps.Verdicts[i]
		entry, ok := r.inv.Get(s.Status.ID)
		if ok && s.Object != nil && s.Status.Action == ActionUnchanged && entry.Held {
			entry.Held = false
			r.inv.Set(s.Status.ID, entry)
		}
	}
}

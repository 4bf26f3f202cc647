package gitops

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/inventory"
)

// prune decides about what is in the inventory and not in the set.
func (pl *planner) prune(d Desired) {
	left := pl.left()
	if len(left) == 0 {
		return
	}
	reason, held := pl.holdBack(d)
	applied := pl.uids()
	var removals []Step
	for _, id := range left {
		step, ok := pl.leftover(id, d.Set.Complete, applied)
		switch {
		case !ok && d.Set.Complete:
			pl.out.Gone = append(pl.out.Gone, id)
		case !ok:
			// That it is missing from the set means nothing.
		case step.Status.Action != ActionPending:
			pl.out.Verdicts = append(pl.out.Verdicts, step)
		default:
			removals = append(removals, step)
		}
	}
	if reason == "" {
		pl.out.Prune = pruneWaves(pl.deletable(d, removals))
		return
	}
	for i := range removals {
		pl.keep(&removals[i], "left the repository, not deleted: "+reason)
	}
	if held && len(removals) > 0 {
		pl.heldBack(fmt.Sprintf("%d object(s) left the repository and are not deleted: %s", len(removals), reason))
	}
}

// left lists what is in the inventory and not in the set, sorted.
func (pl *planner) left() []inventory.ID {
	var left []inventory.ID
	for id := range pl.s.Inventory.All() {
		if _, ok := pl.wanted[id]; !ok {
			left = append(left, id)
		}
	}
	slices.SortFunc(left, compareIDs)
	return left
}

// uids of the objects of the set that exist. The API server may serve one object as
// two kinds; an object that left the set as one of them may have come back as the
// other.
func (pl *planner) uids() map[types.UID]struct{} {
	uids := make(map[types.UID]struct{}, len(pl.wanted))
	for id, i := range pl.wanted {
		if i < 0 {
			continue // its kind is not known
		}
		if live, ok := pl.s.Live(id); ok && live.UID != "" {
			uids[live.UID] = struct{}{}
		}
	}
	return uids
}

// holdBack says why nothing may be pruned; empty: it may. It is held back, rather
// than not asked for, when held is true.
func (pl *planner) holdBack(d Desired) (reason string, held bool) {
	switch {
	case !pl.p.Prune:
		return "prune is off for this project", false
	case !d.Set.Complete:
		return "the commit could not be read completely: correct its errors", true
	case len(d.Set.Objects) == 0 && !pl.p.AllowEmpty:
		return "the commit holds no object at all: " +
			"set allow_empty: true for this project in the agent's configuration if that is meant", true
	default:
		return "", false
	}
}

// leftover makes the step for an object that left the set; false: the object is
// gone or not ours, and the inventory should forget it.
func (pl *planner) leftover(id inventory.ID, complete bool, applied map[types.UID]struct{}) (Step, bool) {
	kind, ok := pl.s.Kinds[id.GroupKind.WithVersion("")]
	switch {
	case ok && kind.Err == nil:
	case kind.Gone:
		return Step{}, false
	default:
		// A kind that is not served now may be served again, with all its objects.
		step := Step{Status: ObjectStatus{ID: id, Action: ActionSkipped, Health: HealthUnknown,
			Message: "left the repository, not deleted yet: its kind is not served by the API server at present"}}
		if ok && !errors.Is(kind.Err, ErrNotServed) {
			fail(&step, "left the repository, cannot be deleted: "+kind.Err.Error())
		}
		return step, true
	}
	live, exists := pl.s.Live(id)
	if !exists {
		pl.out.Unseen = append(pl.out.Unseen, id)
	}
	if _, again := applied[live.UID]; !exists || again || !pl.mayRemove(id, live) {
		return Step{}, false
	}
	step := pruneStep(id, live)
	switch other, wanted := pl.wantedBy(id); {
	case step.Status.Health == HealthTerminating:
		step.Status.Action = ActionPruning // it was asked for before
	case wanted && complete:
		// It stays on the inventory, which is the only one to name it, until the
		// other has taken it over.
		step.Status.Action, step.foreign = ActionSkipped, true
		step.Status.Message = fmt.Sprintf("left this project for another one of this agent, which takes it over (inventory %q)", other)
		pl.out.Waiting++
	}
	return step, true
}

// mayRemove says whether the inventory policy has us delete or let go of an object
// that is on the inventory. As in cli-utils, must_match removes what has our mark,
// and the other two also what has none, provided that we have applied it: what was
// only about to be taken over is not ours to delete. Unlike in cli-utils, adopt_all
// does not remove what has the mark of another inventory: whoever put that there
// after us has taken it over.
func (pl *planner) mayRemove(id inventory.ID, live Live) bool {
	switch live.Owner {
	case pl.s.Inventory.ID():
		return true
	case "":
		entry, _ := pl.s.Inventory.Get(id)
		return pl.p.Policy != inventory.PolicyMustMatch && !entry.Digest.IsZero()
	default:
		return false
	}
}

// wantedBy says which other project of the agent wants an object.
func (pl *planner) wantedBy(id inventory.ID) (string, bool) {
	if pl.p.Others == nil {
		return "", false
	}
	return pl.p.Others.WantedBy(id)
}

// released says that an object may be taken over from another project of the agent.
func (p *Project) released(id inventory.ID, owner string) bool {
	return owner != "" && p.Others != nil && p.Others.Released(owner, id)
}

// pruneStep is a step that removes an object.
func pruneStep(id inventory.ID, live Live) Step {
	health, message := HealthOf(id, live, true)
	return Step{
		Status: ObjectStatus{ID: id, Action: ActionPending, Health: health, Message: message},
		Before: live, Detach: keeps(live), seen: true,
	}
}

// keep settles a step: the object is not removed, for that reason.
func (pl *planner) keep(step *Step, message string) {
	step.Status.Action, step.Status.Message = ActionSkipped, message
	pl.out.Verdicts = append(pl.out.Verdicts, *step)
}

// heldBack adds a sentence to what people are told.
func (pl *planner) heldBack(sentence string) {
	pl.out.HeldBack = addSentence(pl.out.HeldBack, sentence)
}

func addSentence(text, sentence string) string {
	if text == "" || sentence == "" {
		return text + sentence
	}
	return text + "; " + sentence
}

// keeps says that the live object is marked to survive its removal from the
// repository.
func keeps(live Live) bool {
	return live.Stays || MarkedToStay(live.Object.annotation)
}

// What cli-utils goes by, whose own package has half of kubectl linked in.
const (
	onRemoveAnnotation  = "cli-utils.sigs.k8s.io/on-remove"
	lifecycleAnnotation = "client.lifecycle.config.k8s.io/deletion"
)

// MarkedToStay says whether the annotations of a live object have it survive its
// removal from the repository.
func MarkedToStay(annotation func(key string) string) bool {
	return annotation(onRemoveAnnotation) == "keep" || annotation(lifecycleAnnotation) == "detach"
}

func compareIDs(a, b inventory.ID) int {
	for _, c := range []int{
		strings.Compare(a.GroupKind.Group, b.GroupKind.Group),
		strings.Compare(a.GroupKind.Kind, b.GroupKind.Kind),
		strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name),
	} {
		if c != 0 {
			return c
		}
	}
	return 0
}

package gitops

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/common"

	"github.com/kas-agentk/kas/inventory"
)

// prune decides about what is in the inventory and not in the set.
func (pl *planner) prune(d Desired) {
	var left []inventory.ID
	for id := range pl.s.Inventory.All() {
		if _, ok := pl.wanted[id]; !ok {
			left = append(left, id)
		}
	}
	if len(left) == 0 {
		return
	}
	slices.SortFunc(left, compareIDs)
	reason, held := pl.holdBack(d)
	var removals []Step
	for _, id := range left {
		step, ok := pl.leftover(id)
		switch {
		case !ok && d.Set.Complete:
			pl.out.Gone = append(pl.out.Gone, id)
		case !ok:
			// That it is missing from the set means nothing.
		case step.Status.Action != ActionPending:
			pl.out.Verdicts = append(pl.out.Verdicts, step)
		case reason != "":
			step.Status.Action, step.Status.Message = ActionSkipped, "left the repository, not deleted: "+reason
			pl.out.Verdicts = append(pl.out.Verdicts, step)
			removals = append(removals, step)
		default:
			removals = append(removals, step)
		}
	}
	if reason == "" {
		pl.out.Prune = pruneWaves(removals)
	} else if held && len(removals) > 0 {
		pl.out.HeldBack = fmt.Sprintf("%d object(s) left the repository and are not deleted: %s", len(removals), reason)
	}
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
func (pl *planner) leftover(id inventory.ID) (Step, bool) {
	kind, ok := pl.s.Kinds[id.GroupKind.WithVersion("")]
	if !ok || kind.Err != nil {
		// A kind that is not served now may be served again, with all its objects.
		step := Step{Status: ObjectStatus{ID: id, Action: ActionSkipped, Health: HealthUnknown,
			Message: "left the repository, not deleted yet: its kind is not served by the API server at present"}}
		if ok && !errors.Is(kind.Err, ErrNotServed) {
			fail(&step, "left the repository, cannot be deleted: "+kind.Err.Error())
		}
		return step, true
	}
	live, exists := pl.s.Live(id)
	if !exists || live.Owner != pl.s.Inventory.ID() {
		return Step{}, false
	}
	step := pruneStep(id, live)
	if step.Status.Health == HealthTerminating {
		step.Status.Action = ActionPruning // it was asked for before
	}
	return step, true
}

// pruneStep is a step that removes an object.
func pruneStep(id inventory.ID, live Live) Step {
	health, message := HealthOf(id, live, true)
	return Step{
		Status: ObjectStatus{ID: id, Action: ActionPending, Health: health, Message: message},
		Before: live, Detach: keeps(live), seen: true,
	}
}

// keeps says that the live object is marked to survive its removal from the
// repository.
func keeps(live Live) bool {
	if live.Object == nil {
		return false
	}
	for _, key := range []string{common.OnRemoveAnnotation, common.LifecycleDeleteAnnotation} {
		if common.NoDeletion(key, annotation(live.Object, key)) {
			return true
		}
	}
	return false
}

// annotation reads one without copying all.
func annotation(u *unstructured.Unstructured, key string) string {
	value, _, err := unstructured.NestedString(u.Object, "metadata", "annotations", key)
	if err != nil {
		return ""
	}
	return value
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

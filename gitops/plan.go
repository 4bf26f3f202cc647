package gitops

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// State is what Plan looks at besides what is wanted.
type State struct {
	Inventory *inventory.Inventory
	// Kinds of the set's objects by their version, and those of the inventory's
	// with an empty version (see KindsOf).
	Kinds map[schema.GroupVersionKind]Kind
	// Live is Cluster.Live.
	Live func(inventory.ID) (Live, bool)
}

// Steps is what is to be done. The engine carries it out from top to bottom.
type Steps struct {
	// Verdicts on what needs no request: unchanged, skipped, failed.
	Verdicts []Step
	// Definitions are CRDs to apply before anything else. If there are any, it
	// takes another Plan after them.
	Definitions []Step
	// Waves of objects to apply, one wave after another.
	Waves [][]Step
	// Prune waves, after all applies, one after another.
	Prune [][]Step
	// Gone are inventory entries whose objects do not exist any more or belong to
	// somebody else: to be forgotten.
	Gone []inventory.ID
	// Unseen are those of them that are not known to exist any more, which the API
	// server is to confirm: what Live knows may be behind.
	Unseen []inventory.ID
	// Held are objects that the guard holds: to be marked in the inventory, so that
	// they stay held whatever later commits add. See Result as well.
	Held []inventory.ID
	// Waiting: see Result.
	Waiting int
	// Unserved kinds of the set, that CRDs of the set define.
	Unserved []schema.GroupVersionKind
	// HeldBack: see Result.
	HeldBack string
}

// Step is one object and what to do to it.
type Step struct {
	// Status as it is before the step; in a verdict, as it stays.
	Status ObjectStatus
	// Object to apply; nil: to be pruned.
	Object *manifests.Object
	// Before is the live object; its UID is empty if there is none.
	Before Live
	// Needs are the objects that must be healthy before this one is applied.
	Needs []inventory.ID
	// Detach: the object is let go of, not deleted.
	Detach bool
	// seen: Live may be asked for the object.
	seen bool
	// foreign: the policy forbids to touch the live object.
	foreign bool
	// optOut is what of the object is left to others.
	optOut optOut
	// subs are values that come from other objects.
	subs []substitution
	// lacks is a kind that the object needs and that is not served; nil: none.
	lacks *schema.GroupVersionKind
	// note says what the run did or would do, where the action does not tell.
	note string
	// removed: the run has deleted the live object to create it anew.
	removed bool
}

// exists says that there is a live object.
func (s *Step) exists() bool { return s.Before.UID != "" }

// KindsOf lists the kinds that Plan must know.
func KindsOf(d Desired, inv *inventory.Inventory) []schema.GroupVersionKind {
	seen := map[schema.GroupVersionKind]struct{}{}
	var kinds []schema.GroupVersionKind
	var last schema.GroupVersionKind
	add := func(k schema.GroupVersionKind) {
		if k == last {
			return // as of most objects
		}
		last = k
		if _, ok := seen[k]; !ok {
			seen[k] = struct{}{}
			kinds = append(kinds, k)
		}
	}
	for i := range d.Set.Objects {
		o := &d.Set.Objects[i]
		add(o.ID.GroupKind.WithVersion(versionOf(o)))
		for _, gvk := range sourceKinds(o) {
			add(gvk)
		}
	}
	for id := range inv.All() {
		add(id.GroupKind.WithVersion(""))
	}
	return kinds
}

// Plan decides what brings the cluster from s to d. It asks nobody and changes
// nothing, and what it returns depends on its arguments alone.
func Plan(p Project, d Desired, s State) Steps {
	pl := planner{p: p, s: s, wanted: make(map[inventory.ID]int, len(d.Set.Objects))}
	steps := pl.identify(d.Set.Objects)
	pl.order(steps)
	pl.judgeAll(steps)
	var applies []Step
	// In the place of the steps: mostly, all of many steps are verdicts.
	pl.out.Verdicts = steps[:0]
	for i := range steps {
		step := &steps[i]
		switch {
		case step.Status.Action != ActionPending:
			pl.out.Verdicts = append(pl.out.Verdicts, *step)
		case isDefinition(step.Status.ID):
			pl.out.Definitions = append(pl.out.Definitions, *step)
		default:
			applies = append(applies, *step)
		}
	}
	clear(steps[len(pl.out.Verdicts):])
	pl.out.Waves = waves(applies, pl.levels)
	pl.out.Unserved = unservedDefined(d.Set.Objects, pl.unserved)
	pl.prune(d)
	return pl.out
}

// planner holds what the parts of Plan share.
type planner struct {
	p Project
	s State
	// wanted is the index of each object of the set by its ID in the cluster.
	wanted   map[inventory.ID]int
	levels   map[inventory.ID]int
	unserved map[schema.GroupVersionKind]struct{}
	// last is what kind returned last, and of which, if it is known.
	last struct {
		known bool
		of    schema.GroupVersionKind
		Kind
	}
	out Steps
}

// identify makes a step of each object, with the ID that it has in the cluster.
func (pl *planner) identify(objects []manifests.Object) []Step {
	steps := make([]Step, len(objects))
	for i := range objects {
		o := &objects[i]
		step := &steps[i]
		step.Object = o
		step.Status = ObjectStatus{
			ID: o.ID, Version: versionOf(o), Action: ActionPending,
			Health: HealthUnknown, Position: o.Position,
		}
		if !pl.resolve(step) {
			continue
		}
		if o.ID.Name == "" {
			fail(step, "metadata.name is missing; an object that only has generateName cannot be synced")
			continue
		}
		id := step.Status.ID
		if first, ok := pl.wanted[id]; ok && first >= 0 {
			// Which of the two is meant cannot be known, so neither is applied.
			message := fmt.Sprintf("the same object is in %s and in %s: remove one", steps[first].Status.Position, o.Position)
			fail(&steps[first], message)
			fail(step, message)
			continue
		}
		pl.wanted[id] = i
		var err error
		if step.optOut, err = optOutOf(pl.p.Ignore, id, o); err != nil {
			fail(step, err.Error())
		}
	}
	return steps
}

// resolve finds out whether and where the object lives.
func (pl *planner) resolve(step *Step) bool {
	id := &step.Status.ID
	gvk := id.GroupKind.WithVersion(step.Status.Version)
	kind := pl.kind(gvk)
	if kind.Err == nil {
		switch {
		case !kind.Namespaced:
			// As kubectl and the API server do.
			id.Namespace = ""
		case id.Namespace == "":
			id.Namespace = pl.namespace()
		}
		step.seen = true
		return true
	}
	if errors.Is(kind.Err, ErrNotServed) {
		pl.lacks(step, gvk)
		fail(step, fmt.Sprintf("no matches for kind %q in version %q: is its CRD missing?", gvk.Kind, gvk.GroupVersion()))
	} else {
		fail(step, kind.Err.Error())
	}
	// Whichever ID it has in the cluster, it is wanted, and must not be pruned.
	pl.wanted[*id] = -1
	if id.Namespace == "" {
		inDefault := *id
		inDefault.Namespace = pl.namespace()
		pl.wanted[inDefault] = -1
	} else {
		clusterScoped := *id
		clusterScoped.Namespace = ""
		pl.wanted[clusterScoped] = -1
	}
	return false
}

// kind tells how the API server serves one. Mostly it is that of the object before.
func (pl *planner) kind(gvk schema.GroupVersionKind) Kind {
	if pl.last.known && pl.last.of == gvk {
		return pl.last.Kind
	}
	kind, ok := pl.s.Kinds[gvk]
	if !ok {
		kind.Err = fmt.Errorf("%w: it was not looked for", ErrNotServed)
	}
	pl.last.known, pl.last.of, pl.last.Kind = true, gvk, kind
	return kind
}

// lacks notes that a step needs a kind that is not served.
func (pl *planner) lacks(step *Step, gvk schema.GroupVersionKind) {
	if pl.unserved == nil {
		pl.unserved = map[schema.GroupVersionKind]struct{}{}
	}
	pl.unserved[gvk] = struct{}{}
	step.lacks = &gvk
}

func (pl *planner) namespace() string {
	if pl.p.DefaultNamespace == "" {
		return "default"
	}
	return pl.p.DefaultNamespace
}

// judge decides about an object that could be applied.
func (pl *planner) judge(step *Step) {
	id := step.Status.ID
	live, exists := pl.s.Live(id)
	step.Before = live
	entry, recorded := pl.s.Inventory.Get(id)
	if exists && live.Owner != pl.s.Inventory.ID() && (!recorded || !orphaned(live)) {
		if message := refusal(pl.p.Policy, live.Owner); message != "" && !pl.p.released(id, live.Owner) {
			step.Status.Action, step.Status.Message, step.foreign = ActionSkipped, message, true
			step.Status.Health, _ = pl.p.health(id, live, true)
			if live.Owner != "" && pl.p.Others != nil {
				pl.out.Waiting++
			}
		}
		return
	}
	digest, known := digestOf(step.Object, step.subs, pl.s.Live)
	if recorded && known && entry.Digest == withFields(digest, step.optOut.fields) && pl.leave(step, entry, exists) {
		step.Status.Action = ActionUnchanged
		step.note = pl.p.Healing.note(id, entry.Digest)
		health, message := pl.p.health(id, live, exists)
		step.Status.Health, step.Status.Message = health, addSentence(step.note, message)
	}
}

// refusal says why the policy forbids to apply over an object of that owner; empty:
// it does not.
func refusal(policy inventory.Policy, owner string) string {
	switch {
	case policy == inventory.PolicyAdoptAll:
		return ""
	case owner != "":
		return fmt.Sprintf("the object exists and belongs to inventory %q: remove it there, "+
			"or set inventory_policy: adopt_all for this project in the agent's configuration to take it over", owner)
	case policy == inventory.PolicyAdoptIfNoInventory:
		return ""
	default:
		return "the object exists and was not made by this project: " +
			"set inventory_policy: adopt_if_no_inventory for this project in the agent's configuration to take it over"
	}
}

func fail(step *Step, message string) {
	step.Status.Action, step.Status.Message = ActionFailed, message
}

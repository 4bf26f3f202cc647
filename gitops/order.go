package gitops

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/object/dependson"
	"sigs.k8s.io/cli-utils/pkg/ordering"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

var (
	namespaceKind  = schema.GroupKind{Kind: "Namespace"}
	definitionKind = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
)

func isDefinition(id inventory.ID) bool { return id.GroupKind == definitionKind }

// order reads the annotations that say what comes before what, depends-on and
// apply-time-mutation, and fails the objects that cannot be ordered.
func (pl *planner) order(steps []Step) {
	deps := map[inventory.ID][]inventory.ID{}
	for i := range steps {
		step := &steps[i]
		if step.Status.Action != ActionPending {
			continue
		}
		if err := pl.needs(step); err != nil {
			fail(step, err.Error())
			continue
		}
		if len(step.Needs) > 0 {
			deps[step.Status.ID] = step.Needs
		}
	}
	if len(deps) == 0 {
		return
	}
	pl.withNamespaces(steps, deps)
	levels, cyclic := levelsOf(deps)
	pl.levels = levels
	for id, path := range cyclic {
		if i, ok := pl.wanted[id]; ok && i >= 0 {
			fail(&steps[i], fmt.Sprintf("%s goes round in a circle: %s", dependson.Annotation, path))
		}
	}
}

// withNamespaces has what lives in a namespace come after it, where the namespace
// itself has to wait for something.
func (pl *planner) withNamespaces(steps []Step, deps map[inventory.ID][]inventory.ID) {
	waiting := map[string]inventory.ID{}
	for id := range deps {
		if id.GroupKind == namespaceKind {
			waiting[id.Name] = id
		}
	}
	if len(waiting) == 0 {
		return
	}
	for i := range steps {
		id := steps[i].Status.ID
		if ns, ok := waiting[id.Namespace]; ok && id.Namespace != "" && steps[i].Status.Action == ActionPending {
			deps[id] = append(slices.Clone(deps[id]), ns)
		}
	}
}

// errNotHeld marks a dependency that the set does not hold.
var errNotHeld = errors.New("which this project does not hold")

// needs finds out what comes before a step's object.
func (pl *planner) needs(step *Step) error {
	needs, err := dependencies(step.Object)
	if err != nil {
		return err
	}
	if missing, ok := firstMissing(needs, pl.wanted); ok {
		return fmt.Errorf("%s names %s, %w", dependson.Annotation, describe(missing), errNotHeld)
	}
	if step.subs, err = pl.substitutions(step); err != nil {
		return err
	}
	for _, source := range sourcesOf(step.subs, pl.wanted) {
		if !slices.Contains(needs, source) {
			needs = append(needs, source)
		}
	}
	step.Needs = needs
	return nil
}

// dependencies parses an object's depends-on annotation.
func dependencies(o *manifests.Object) ([]inventory.ID, error) {
	if !mentions(o, dependson.Annotation) {
		return nil, nil
	}
	u, err := o.Unstructured()
	if err != nil {
		return nil, err
	}
	needs, err := dependson.ReadAnnotation(u)
	if err != nil {
		return nil, fmt.Errorf("read annotation: %w", err)
	}
	return slices.Clip([]inventory.ID(needs)), nil
}

func firstMissing(needs []inventory.ID, wanted map[inventory.ID]int) (inventory.ID, bool) {
	for _, need := range needs {
		if _, ok := wanted[need]; !ok {
			return need, true
		}
	}
	return inventory.ID{}, false
}

// levelsOf tells for each object how many others have to come before it, one after
// another. Objects on or behind a circle have no level, but the circle as text.
func levelsOf(deps map[inventory.ID][]inventory.ID) (levels map[inventory.ID]int, cyclic map[inventory.ID]string) {
	levels = make(map[inventory.ID]int, len(deps))
	open := make(map[inventory.ID]int, len(deps))
	dependents := map[inventory.ID][]inventory.ID{}
	for id, needs := range deps {
		open[id] = len(needs)
		for _, need := range needs {
			dependents[need] = append(dependents[need], id)
		}
	}
	var ready []inventory.ID
	for need := range dependents {
		if open[need] == 0 {
			ready = append(ready, need)
		}
	}
	for len(ready) > 0 {
		id := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		delete(open, id)
		for _, next := range dependents[id] {
			levels[next] = max(levels[next], levels[id]+1)
			if open[next]--; open[next] == 0 {
				ready = append(ready, next)
			}
		}
	}
	for id, n := range open {
		if n == 0 {
			continue
		}
		if cyclic == nil {
			cyclic = map[inventory.ID]string{}
		}
		cyclic[id] = circle(id, deps, open)
	}
	return levels, cyclic
}

// circle walks from id along what is never ready until it has been there before.
func circle(id inventory.ID, deps map[inventory.ID][]inventory.ID, open map[inventory.ID]int) string {
	at := map[inventory.ID]int{}
	var path []string
	for {
		if start, ok := at[id]; ok {
			return strings.Join(append(path[start:], describe(id)), " -> ")
		}
		at[id] = len(path)
		path = append(path, describe(id))
		stuck := slices.IndexFunc(deps[id], func(need inventory.ID) bool { return open[need] > 0 })
		if stuck < 0 {
			return strings.Join(path, " -> ")
		}
		id = deps[id][stuck]
	}
}

// describe is an ID for people.
func describe(id inventory.ID) string {
	name := id.Name
	if id.Namespace != "" {
		name = id.Namespace + "/" + name
	}
	return id.GroupKind.Kind + " " + name
}

// waves groups steps by level and, within a level, by the class of their kind.
func waves(steps []Step, levels map[inventory.ID]int) [][]Step {
	if len(steps) == 0 {
		return nil
	}
	rank := ranks(steps)
	type key struct{ level, rank int }
	groups := map[key][]Step{}
	var keys []key
	for i := range steps {
		id := steps[i].Status.ID
		k := key{levels[id], rank[id.GroupKind]}
		if _, ok := groups[k]; !ok {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], steps[i])
	}
	slices.SortFunc(keys, func(a, b key) int {
		if a.level != b.level {
			return a.level - b.level
		}
		return a.rank - b.rank
	})
	out := make([][]Step, len(keys))
	for i, k := range keys {
		out[i] = groups[k]
	}
	return out
}

// ranks numbers the kinds in the order of cli-utils. Kinds to which that gives no
// place of their own share one number: between them there is no order to keep.
func ranks(steps []Step) map[schema.GroupKind]int {
	rank := map[schema.GroupKind]int{}
	var kinds []schema.GroupKind
	for i := range steps {
		gk := steps[i].Status.ID.GroupKind
		if _, ok := rank[gk]; !ok {
			rank[gk] = 0
			kinds = append(kinds, gk)
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupKind) int {
		switch {
		case ordering.IsLessThan(a, b):
			return -1
		case ordering.IsLessThan(b, a):
			return 1
		default:
			return 0
		}
	})
	for i := 1; i < len(kinds); i++ {
		rank[kinds[i]] = rank[kinds[i-1]]
		if !unranked(kinds[i]) || !unranked(kinds[i-1]) {
			rank[kinds[i]]++
		}
	}
	return rank
}

// unranked kinds are those that cli-utils sorts by name alone: between the first
// and the last possible name.
func unranked(gk schema.GroupKind) bool {
	lowest := schema.GroupKind{}
	highest := schema.GroupKind{Group: "\U0010ffff", Kind: "\U0010ffff"}
	return !ordering.IsLessThan(gk, lowest) && !ordering.IsLessThan(highest, gk)
}

// pruneWaves is the reverse of waves, by what the live objects say.
func pruneWaves(steps []Step) [][]Step {
	deps := map[inventory.ID][]inventory.ID{}
	for i := range steps {
		live := steps[i].Before.Object
		if !live.mentions(dependson.Annotation) {
			continue
		}
		// What is wrong in an annotation must not keep an object from being pruned.
		if needs, err := dependson.ReadAnnotation(live.Unstructured()); err == nil && len(needs) > 0 {
			deps[steps[i].Status.ID] = needs
		}
	}
	levels, _ := levelsOf(deps)
	out := waves(steps, levels)
	slices.Reverse(out)
	return out
}

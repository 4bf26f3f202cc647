package gitops

import (
	"fmt"

	"sigs.k8s.io/cli-utils/pkg/object"

	"github.com/kas-agentk/kas/inventory"
)

// deletable returns which removals the engine may carry out, and settles the others:
// it lets go of what is marked to stay, and deletes nothing that the set still needs,
// that another project may want, or that waits for a person.
func (pl *planner) deletable(d Desired, removals []Step) []Step {
	var going, deletions []Step
	needed := pl.needed(removals)
	for i := range removals {
		step := &removals[i]
		id := step.Status.ID
		switch needs, ok := needed[id]; {
		case step.Detach:
			going = append(going, *step)
		case ok:
			pl.keep(step, "left the repository, not deleted: "+needs)
			pl.heldBack(describe(id) + " is not deleted: " + needs)
		default:
			deletions = append(deletions, *step)
		}
	}
	if len(deletions) > 0 && pl.p.Others != nil && !pl.p.Others.Settled() {
		for i := range deletions {
			pl.keep(&deletions[i], "left the repository, not deleted yet: what the agent's other projects want is not known yet")
		}
		pl.out.Waiting += len(deletions)
		return going
	}
	return append(going, pl.guarded(d, deletions)...)
}

// needed tells which namespaces and CRDs among the removals cannot go, because
// objects of the set live in them or are of their kind.
func (pl *planner) needed(removals []Step) map[inventory.ID]string {
	homes, kinds := map[string]inventory.ID{}, map[string]inventory.ID{}
	for i := range removals {
		id := removals[i].Status.ID
		switch {
		case id.GroupKind == namespaceKind:
			homes[id.Name] = id
		case isDefinition(id):
			if crd := removals[i].Before.Object.Unstructured(); crd != nil {
				if gk, ok := object.GetCRDGroupKind(crd); ok {
					kinds[gk.String()] = id
				}
			}
		}
	}
	if len(homes)+len(kinds) == 0 {
		return nil
	}
	out := map[inventory.ID]string{}
	note := func(home inventory.ID, ok bool, id inventory.ID, how string) {
		message := fmt.Sprintf("this project still holds objects %s, such as %s", how, describe(id))
		if old, had := out[home]; ok && (!had || message < old) { // always the same one
			out[home] = message
		}
	}
	for id := range pl.wanted {
		home, ok := homes[id.Namespace]
		note(home, ok && id.Namespace != "", id, "in it")
		home, ok = kinds[id.GroupKind.String()]
		note(home, ok, id, "of that kind")
	}
	return out
}

// guarded holds deletions back until a person has approved of them.
func (pl *planner) guarded(d Desired, deletions []Step) []Step {
	g := pl.p.Guard
	if len(deletions) == 0 || g.MinObjects <= 0 || g.MaxPercent >= 100 || approved(g, d) {
		return deletions
	}
	reason := ""
	if len(deletions) >= g.MinObjects {
		if all := pl.existing(); len(deletions)*100 > g.MaxPercent*all {
			reason = fmt.Sprintf("the commit would delete %d of %d objects", len(deletions), all)
		}
	}
	everything := reason != ""
	var going, held []Step
	for i := range deletions {
		entry, _ := pl.s.Inventory.Get(deletions[i].Status.ID)
		if everything || entry.Held {
			held = append(held, deletions[i])
		} else {
			going = append(going, deletions[i])
		}
	}
	if len(held) == 0 {
		return going
	}
	if reason == "" {
		reason = fmt.Sprintf("an earlier commit would have deleted %d objects, which are still missing from this one", len(held))
	}
	for i := range held {
		pl.out.Held = append(pl.out.Held, held[i].Status.ID)
		pl.keep(&held[i], "left the repository, not deleted: "+reason+", which waits for approval")
	}
	pl.heldBack(reason + ": " + pl.p.howToApprove(d))
	return going
}

// existing is how many objects of the inventory there are. Those that a commit has
// only put on record do not count, so that a commit does not look smaller when it is
// tried again.
func (pl *planner) existing() int {
	n := 0
	for id := range pl.s.Inventory.All() {
		kind, ok := pl.s.Kinds[id.GroupKind.WithVersion("")]
		if !ok || kind.Err != nil {
			continue
		}
		if live, exists := pl.s.Live(id); exists && pl.mayRemove(id, live) {
			n++
		}
	}
	return n
}

// approved says that a person has approved of the commit's deletions.
func approved(g Guard, d Desired) bool { return d.Commit != "" && g.Approved == d.Commit }

// howToApprove is a sentence for people.
func (p *Project) howToApprove(d Desired) string {
	return fmt.Sprintf("nothing of that is deleted until somebody approves of it, "+
		"with \"kasctl approve %s %s %s\", on the page, or as prune_guard.approved_commit in the agent's configuration",
		p.Agent, p.Name, d.Commit)
}

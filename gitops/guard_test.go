package gitops_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// guarded is a project whose guard stops more than half, from three objects on.
func guarded() gitops.Project {
	p := project()
	p.Guard = gitops.Guard{MinObjects: 3, MaxPercent: 50}
	return p
}

// numbered are ConfigMaps a00, a01 and so on, from one number to another.
func numbered(prefix string, from, to int) []string {
	var docs []string
	for i := from; i < to; i++ {
		docs = append(docs, cm(fmt.Sprintf("%s%02d", prefix, i), "1"))
	}
	return docs
}

func commit(d gitops.Desired, id string) gitops.Desired {
	d.Commit = id
	return d
}

func TestPlan_GuardCountsWhatWouldReallyBeDeleted(t *testing.T) {
	p := guarded()
	for _, row := range []struct {
		name  string
		scene *scene
		want  int
	}{
		{"more than half, and at least three, are held", newScene().has(cmID("a"), owner).has(cmID("b"), owner).has(cmID("c"), owner), 3},
		{"two of two are not many", newScene().has(cmID("a"), owner).has(cmID("b"), owner), 0},
		{
			"half is not more than half",
			newScene().has(cmID("a"), owner).has(cmID("b"), owner).has(cmID("c"), owner).has(cmID("keep"), owner).
				has(cmID("keep2"), owner).has(cmID("keep3"), owner), 0,
		},
		{
			"what is let go of does not count",
			newScene().has(cmID("a"), owner).has(cmID("b"), owner).has(cmID("c"), owner, "cli-utils.sigs.k8s.io/on-remove=keep"), 0,
		},
		{
			"what somebody else has taken does not count",
			newScene().has(cmID("a"), owner).has(cmID("b"), owner).has(cmID("c"), owner).has(cmID("c"), "other"), 0,
		},
		{
			"what was only put on record does not make the inventory larger",
			func() *scene {
				s := newScene().has(cmID("a"), owner).has(cmID("b"), owner).has(cmID("c"), owner)
				for _, name := range []string{"keep", "keep2", "keep3"} {
					s.inv.Set(cmID(name), inventory.Entry{})
				}
				return s
			}(), 3,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			steps := row.scene.plan(p, set(t, cm("keep", "1"), cm("keep2", "1"), cm("keep3", "1")))
			require.Len(t, steps.Held, row.want)
			require.Equal(t, row.want > 0, steps.HeldBack != "")
		})
	}
}

func TestRun_GuardHoldsDeletionsUntilApproved(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := guarded()
	run(t, f, p, commit(set(t, numbered("a", 0, 5)...), "1"))

	second := commit(set(t, append(numbered("a", 0, 1), numbered("b", 0, 9)...)...), "2")
	held := []inventory.ID{cmID("a01"), cmID("a02"), cmID("a03"), cmID("a04")}
	result, o := run(t, f, p, second)
	require.Zero(t, result.Failed)
	require.Equal(t, held, result.Held)
	require.Contains(t, result.HeldBack, "the commit would delete 4 of 5 objects")
	require.Contains(t, result.HeldBack, "kasctl approve 1 group/app 2")
	require.Equal(t, gitops.ActionSkipped, o.get("a01").Action)
	require.Equal(t, "left the repository, not deleted: the commit would delete 4 of 5 objects, which waits for approval", o.get("a01").Message)
	require.Equal(t, gitops.ActionCreated, o.get("b00").Action, "the rest is applied")
	require.Len(t, w.names(), 14)

	// By now four of fourteen is little, and still the deletion is not approved of:
	// neither for this commit, by another process, nor for the next.
	result, _ = run(t, w.process(), p, second)
	require.Equal(t, held, result.Held)
	third := commit(set(t, append(numbered("a", 0, 1), numbered("b", 0, 8)...)...), "3")
	result, o = run(t, f, p, third)
	require.Equal(t, held, result.Held)
	require.Contains(t, result.HeldBack, "an earlier commit would have deleted 4 objects")
	require.Equal(t, gitops.ActionPruned, o.get("b08").Action, "what leaves later is judged by itself")

	// An approval is for one commit.
	p.Guard.Approved = "2"
	result, _ = run(t, f, p, third)
	require.Equal(t, held, result.Held)
	p.Guard.Approved = "3"
	result, o = run(t, f, p, third)
	require.Empty(t, result.Held)
	require.Empty(t, result.HeldBack)
	require.Equal(t, gitops.ActionPruned, o.get("a01").Action)
	require.Len(t, w.names(), 9)
	require.Equal(t, w.names(), w.recorded(t))
}

func TestRun_GuardForgetsWhatCameBack(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := guarded()
	all := set(t, numbered("a", 0, 5)...)
	run(t, f, p, all)
	result, _ := run(t, f, p, set(t, numbered("a", 0, 1)...))
	require.Len(t, result.Held, 4)
	f.calls = nil
	result, o := run(t, f, p, all)
	require.Empty(t, result.Held)
	require.Equal(t, gitops.ActionUnchanged, o.get("a03").Action)
	require.Equal(t, []string{"resolve", "save"}, f.calls, "only the mark is taken off")

	result, o = run(t, f, p, set(t, numbered("a", 0, 4)...))
	require.Empty(t, result.Held, "one of five needs no approval")
	require.Equal(t, gitops.ActionPruned, o.get("a04").Action)
}

func TestRun_GuardDoesNotStopWhatShrinksInSmallSteps(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := guarded()
	run(t, f, p, set(t, numbered("a", 0, 8)...))
	for _, n := range []int{4, 2, 1} {
		result, _ := run(t, f, p, set(t, numbered("a", 0, n)...))
		require.Empty(t, result.Held)
		require.Len(t, w.names(), n)
	}
}

func TestRun_GuardHoldsWhereverTheFirstRunCrashes(t *testing.T) {
	second := commit(set(t, append(numbered("a", 0, 1), numbered("b", 0, 9)...)...), "2")
	p := guarded()
	crashed := 0
	for n := 1; ; n++ {
		w := newWorld()
		run(t, w.process(), p, commit(set(t, numbered("a", 0, 5)...), "1"))
		f := w.process()
		asked := 0
		f.fault = func(string) error {
			if asked++; asked >= n {
				return gitops.ErrUnavailable
			}
			return nil
		}
		_, err := gitops.Run(t.Context(), f, p, second, newObserver())
		result, _ := run(t, w.process(), p, second)
		require.Len(t, result.Held, 4, "crash at %d", n)
		for _, name := range []string{"a01", "a02", "a03", "a04"} {
			require.True(t, w.names()[name], "crash at %d", n)
		}
		if err == nil {
			break
		}
		crashed++
	}
	require.Greater(t, crashed, 20)
}

func TestRun_ApprovedPruneGoesOnAfterACrash(t *testing.T) {
	second := commit(set(t, numbered("a", 0, 1)...), "2")
	p := guarded()
	crashed := 0
	for n := 1; ; n++ {
		w := newWorld()
		run(t, w.process(), p, commit(set(t, numbered("a", 0, 5)...), "1"))
		run(t, w.process(), p, second)
		p := p
		p.Guard.Approved = "2"
		f := w.process()
		asked := 0
		f.fault = func(string) error {
			if asked++; asked >= n {
				return gitops.ErrUnavailable
			}
			return nil
		}
		_, err := gitops.Run(t.Context(), f, p, second, newObserver())
		result, _ := run(t, w.process(), p, second)
		require.Empty(t, result.Held)
		require.Equal(t, map[string]bool{"a00": true}, w.names(), "crash at %d", n)
		require.Equal(t, w.names(), w.recorded(t))
		if err == nil {
			break
		}
		crashed++
	}
	require.Greater(t, crashed, 8)
}

func nsID(name string) inventory.ID {
	return inventory.ID{GroupKind: schema.GroupKind{Kind: "Namespace"}, Name: name}
}

const namespaceDoc = `{apiVersion: v1, kind: Namespace, metadata: {name: team}}`

func inTeam(name string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: team}}`, name)
}

func teamID(name string) inventory.ID {
	id := cmID(name)
	id.Namespace = "team"
	return id
}

func TestRun_NamespaceWithForeignObjectsWaitsForApproval(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), commit(set(t, namespaceDoc, inTeam("ours"), cm("rest", "1")), "1"))
	var foreign []inventory.ID
	for i := range 5 {
		id := teamID(fmt.Sprintf("foreign-%d", i))
		w.objects[id] = gitops.Live{UID: "u", ResourceVersion: "1"}
		foreign = append(foreign, id)
	}
	w.occupants["team"] = append(slices.Clone(foreign), teamID("ours"))

	next := commit(set(t, cm("rest", "1")), "2")
	result, o := run(t, f, project(), next)
	require.Equal(t, []inventory.ID{nsID("team")}, result.Held)
	require.Equal(t, 1, result.Waiting)
	require.Equal(t, gitops.ActionPruned, o.get("ours").Action, "the rest goes")
	require.Equal(t, gitops.ActionSkipped, o.get("team").Action)
	require.Equal(t, "left the repository, not deleted: it holds objects that this project does not delete: "+
		"ConfigMap team/foreign-0, ConfigMap team/foreign-1, ConfigMap team/foreign-2 and 2 more", o.get("team").Message)
	require.Contains(t, result.HeldBack, "kasctl approve 1 group/app 2")

	for _, id := range foreign[1:] {
		w.remove(id)
	}
	result, o = run(t, w.process(), project(), next)
	require.Len(t, result.Held, 1)
	require.Contains(t, o.get("team").Message, "delete: ConfigMap team/foreign-0")
	w.remove(foreign[0])
	result, _ = run(t, f, project(), next)
	require.Empty(t, result.Held)
	require.NotContains(t, w.names(), "team")
}

func TestRun_NamespaceThatCannotBeLookedIntoIsHeld(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, namespaceDoc, cm("rest", "1")))
	w.unknowable["team"] = errors.New("list secrets: forbidden")
	next := commit(set(t, cm("rest", "1")), "2")
	result, o := run(t, f, project(), next)
	require.Equal(t, []inventory.ID{nsID("team")}, result.Held)
	require.Contains(t, o.get("team").Message, "it cannot be told what would be lost with it: list secrets: forbidden")

	w.unknowable["team"] = gitops.ErrUnavailable
	_, err := gitops.Run(t.Context(), f, project(), next, newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)

	p := project()
	p.Guard.Approved = "2"
	result, _ = run(t, w.process(), p, next)
	require.Empty(t, result.Held)
	require.NotContains(t, w.names(), "team")
}

func TestRun_NamespaceThatTheSetNeedsIsNeverDeleted(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, namespaceDoc, inTeam("ours")))
	p := project()
	p.Guard.Approved = "2"
	result, o := run(t, f, p, commit(set(t, inTeam("ours")), "2"))
	require.Equal(t, gitops.ActionSkipped, o.get("team").Action)
	require.Contains(t, o.get("team").Message, "this project still holds objects in it, such as ConfigMap team/ours")
	require.Contains(t, result.HeldBack, "Namespace team is not deleted")
	require.Contains(t, w.names(), "team")
}

func TestRun_HeldNamespaceIsNotForgottenByTheDryRuns(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := guarded()
	run(t, f, p, set(t, numbered("a", 0, 5)...))
	shards := fmt.Sprint(w.shards)
	p.DryRun = gitops.DryRunServer
	result, o := run(t, f, p, set(t, numbered("a", 0, 1)...))
	require.Len(t, result.Held, 4, "a dry run tells of it as well")
	require.Equal(t, gitops.ActionSkipped, o.get("a03").Action)
	require.Equal(t, shards, fmt.Sprint(w.shards))
}

func TestRun_ObjectTakenOverInTheLastMomentIsNotDeleted(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("moved", "1"), cm("rest", "1")))
	f.fault = func(call string) error {
		if call == "before remove moved" {
			w.mu.Lock()
			live := w.objects[cmID("moved")]
			live.Owner, live.ResourceVersion = "other", "9999"
			w.objects[cmID("moved")] = live
			w.mu.Unlock()
		}
		return nil
	}
	result, o := run(t, f, project(), set(t, cm("rest", "1")))
	require.Zero(t, result.Failed)
	require.Equal(t, 1, result.Waiting)
	require.Equal(t, gitops.ActionSkipped, o.get("moved").Action)
	require.Contains(t, w.names(), "moved")
	require.True(t, w.recorded(t)["moved"])
	_, o = run(t, f, project(), set(t, cm("rest", "1")))
	require.Equal(t, []string{"moved"}, o.removed)
	require.False(t, w.recorded(t)["moved"])
}

func TestPlan_KindThatNothingDefinesAnyMoreIsForgotten(t *testing.T) {
	id := inventory.ID{GroupKind: schema.GroupKind{Group: "gone.example.com", Kind: "X"}, Name: "x"}
	s := newScene()
	s.inv.Set(id, inventory.Entry{})
	s.kinds[id.GroupKind.WithVersion("")] = gitops.Kind{Err: gitops.ErrNotServed, Gone: true}
	d := set(t, cm("a", "1"))
	require.Equal(t, "apply: a\ngone x\n", show(s.plan(project(), d)))
	d.Set.Complete = false
	require.Equal(t, "apply: a\n", show(s.plan(project(), d)), "not for an incomplete set")
}

func TestPlan_PoliciesForPruning(t *testing.T) {
	at := func(policy inventory.Policy) gitops.Project {
		p := project()
		p.Policy = policy
		return p
	}
	const let, pruned = "apply: a\ngone b\n", "apply: a\nprune: b\n"
	for _, row := range []struct {
		name   string
		policy inventory.Policy
		owner  string
		// recorded: applied, rather than only about to be.
		recorded bool
		want     string
	}{
		{"must_match prunes what has our mark", inventory.PolicyMustMatch, owner, true, pruned},
		{"must_match lets go of what has no mark any more", inventory.PolicyMustMatch, "", true, let},
		{"must_match lets go of what has another mark", inventory.PolicyMustMatch, "other", true, let},
		{"adopt_if_no_inventory prunes what has lost its mark", inventory.PolicyAdoptIfNoInventory, "", true, pruned},
		{"adopt_if_no_inventory lets go of what was only about to be adopted", inventory.PolicyAdoptIfNoInventory, "", false, let},
		{"adopt_if_no_inventory lets go of what has another mark", inventory.PolicyAdoptIfNoInventory, "other", true, let},
		{"adopt_all prunes what has lost its mark", inventory.PolicyAdoptAll, "", true, pruned},
		{"adopt_all lets go of what another inventory has taken over", inventory.PolicyAdoptAll, "other", true, let},
		{"an object that was about to be made, and was, is pruned", inventory.PolicyMustMatch, owner, false, pruned},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newScene().has(cmID("b"), row.owner)
			s.inv.Set(cmID("b"), inventory.Entry{})
			if row.recorded {
				s.inv.Set(cmID("b"), inventory.Entry{Digest: inventory.Hash{1}, Ownership: inventory.Hash{1}})
			}
			require.Equal(t, row.want, show(s.plan(at(row.policy), set(t, cm("a", "1")))))
		})
	}
}

func TestPlan_ObjectThatIsServedAsTwoKindsIsNotPrunedAsTheOther(t *testing.T) {
	s := newScene().has(inventory.ID{GroupKind: schema.GroupKind{Group: "example.com", Kind: "Zebra"}, Namespace: "default", Name: "b"}, owner)
	s.has(cmID("b"), owner) // the same name, and the scene's UIDs are by name
	require.Equal(t, "apply: b\ngone b\n", show(s.plan(project(), set(t, cm("b", "1")))))
}

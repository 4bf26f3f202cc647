package gitops_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/gitops"
)

func atomic1() gitops.Project {
	p := project()
	p.Atomic = true
	return p
}

const (
	widgetDefinition = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.example.com},
  spec: {group: example.com, names: {kind: Widget}, versions: [{name: v1, served: true}]}}`
	widget = `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}`
)

func TestRun_AtomicRefusalAppliesAndPrunesNothing(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, atomic1(), set(t, cm("same", "1"), cm("change", "1"), cm("leave", "1")))
	w.refused["bad"] = true
	f.calls = nil

	result, o := run(t, f, atomic1(), set(t, cm("same", "1"), cm("change", "2"), cm("new", "1"), cm("bad", "1")))
	require.Equal(t, map[string]bool{"same": true, "change": true, "leave": true}, w.names())
	require.NotContains(t, f.calls, "save")
	require.Equal(t, 3, result.Failed)
	require.Equal(t, "nothing of the commit was applied: the project is atomic, and 1 object was refused", result.HeldBack)
	require.Equal(t, gitops.ActionFailed, o.get("bad").Action)
	require.Equal(t, errRefused.Error(), o.get("bad").Message)
	for _, name := range []string{"change", "new"} {
		require.Equal(t, gitops.ActionSkipped, o.get(name).Action)
		require.Equal(t, "held back: atomic, and 1 object was refused", o.get(name).Message)
	}
	require.Equal(t, gitops.ActionUnchanged, o.get("same").Action)
	require.Equal(t, gitops.ActionSkipped, o.get("leave").Action)
	require.Equal(t, "left the repository, not deleted: the project is atomic, and 1 object was refused", o.get("leave").Message)

	w.refused["bad"] = false
	result, o = run(t, f, atomic1(), set(t, cm("same", "1"), cm("change", "2"), cm("new", "1"), cm("bad", "1")))
	require.Zero(t, result.Failed)
	require.Empty(t, result.HeldBack)
	require.Equal(t, map[string]bool{"same": true, "change": true, "new": true, "bad": true}, w.names())
	require.Contains(t, o.removed, "leave")
}

func TestRun_AtomicUnchangedCostsNothing(t *testing.T) {
	f := newWorld().process()
	run(t, f, atomic1(), set(t, cm("a", "1")))
	f.calls = nil
	run(t, f, atomic1(), set(t, cm("a", "1")))
	require.Equal(t, []string{"resolve"}, f.calls)
}

func TestRun_AtomicHoldsBackWhatCannotBePlanned(t *testing.T) {
	for _, row := range []struct {
		name       string
		docs       []string
		incomplete bool
		want       string
	}{
		{"a file could not be read", []string{cm("good", "1")}, true, "held back: atomic, and the commit could not be read completely"},
		{"an object is there twice", []string{cm("good", "1"), cm("twice", "1"), cm("twice", "2")}, false, "held back: atomic, and 2 objects were refused"},
		{"a kind is not served", []string{cm("good", "1"), widget}, false, "held back: atomic, and 1 object was refused"},
		{"dependencies go round", []string{cm("good", "1"), after("x", "y1"), after("y1", "x")}, false, "held back: atomic, and 2 objects were refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			d := set(t, row.docs...)
			d.Set.Complete = !row.incomplete
			_, o := run(t, w.process(), atomic1(), d)
			require.Empty(t, w.names())
			require.Equal(t, row.want, o.get("good").Message)
		})
	}
}

func TestRun_AtomicTakesWhatComesWithTheCommitToBeFine(t *testing.T) {
	w := newWorld()
	f := w.process()
	inside := strings.Replace(cm("inside", "1"), "name: inside", "name: inside, namespace: home", 1)
	home := `{apiVersion: v1, kind: Namespace, metadata: {name: home}}`
	f.fault = func(call string) error {
		if !w.names()["home"] && call == "before apply inside" {
			return &gitops.KindError{Kind: gitops.ErrNoNamespace, Err: fmt.Errorf("namespaces %q not found", "home")} //nolint:err113 // the API server's words
		}
		return nil
	}
	result, o := run(t, f, atomic1(), set(t, inside, widget, home, widgetDefinition))
	require.Zero(t, result.Failed, "%+v", o.newest)
	require.Equal(t, map[string]bool{"inside": true, "w": true, "home": true, "widgets.example.com": true}, w.names())

	result, o = run(t, newNamespaceless(t), atomic1(), set(t, inside, cm("other", "1")))
	require.Equal(t, 2, result.Failed, "a namespace that is nowhere is none that comes")
	require.Equal(t, gitops.ActionFailed, o.get("inside").Action)
}

func newNamespaceless(t *testing.T) *fakeCluster {
	t.Helper()
	f := newWorld().process()
	f.fault = func(call string) error {
		if call == "before apply inside" {
			return &gitops.KindError{Kind: gitops.ErrNoNamespace, Err: errAbsent}
		}
		return nil
	}
	return f
}

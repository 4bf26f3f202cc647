package gitops_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/gitops"
)

// phases is an observer that wants to know what a run is at.
type phases struct {
	*observer
	told []string
}

func (o *phases) Phase(p gitops.Phase) {
	o.told = append(o.told, fmt.Sprintf("%s %s %d", p.Name, p.Kind, p.Objects))
}

func TestRun_TellsWhatItIsAt(t *testing.T) {
	w := newWorld()
	f := w.process()
	told := func(p gitops.Project, docs ...string) []string {
		t.Helper()
		o := &phases{observer: newObserver()}
		_, err := gitops.Run(t.Context(), f, p, set(t, docs...), o)
		require.NoError(t, err)
		return o.told
	}
	widget := `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}`
	secret := `{apiVersion: v1, kind: Secret, metadata: {name: s}}`
	require.Equal(t, []string{
		"plan  5",
		"record  5", "apply CustomResourceDefinition 1", "plan  5",
		"record  5", "apply ConfigMap 2", "apply Secret 1", "apply Widget 1",
		"record  5",
	}, told(project(), widgets, widget, secret, cm("a", "1"), cm("b", "1")), "a first run")
	require.Equal(t, []string{"plan  5"}, told(project(), widgets, widget, secret, cm("a", "1"), cm("b", "1")), "nothing to do")
	atomic := project()
	atomic.Atomic = true
	require.Equal(t, []string{
		"plan  4", "try ConfigMap 1", "apply ConfigMap 1", "record  4", "prune ConfigMap 1", "wait for deletions  1", "record  4",
	}, told(atomic, widgets, widget, secret, cm("a", "2")), "a change and a deletion, atomic")
}

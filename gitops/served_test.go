package gitops_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/gitops"
)

func TestWatch_TellsWhenSomebodyMakesAMissingDefinition(t *testing.T) {
	w := newWorld()
	f := w.process()
	result, o := run(t, f, project(), set(t, widget, cm("rest", "1")))
	require.Equal(t, 1, result.Failed)
	require.Equal(t, `no matches for kind "Widget" in version "example.com/v1": is its CRD missing?`, o.get("w").Message)

	watching := watch(t, f, project(), result, o)
	require.False(t, (<-watching.told).Retry)
	run(t, w.process(), gitops.Project{Key: "3-4"}, set(t, widgetDefinition))
	require.True(t, (<-watching.told).Retry)
	watching.stop()

	result, _ = run(t, f, project(), set(t, widget, cm("rest", "1")))
	require.Zero(t, result.Failed)
	watching = watch(t, f, project(), result, o)
	require.False(t, (<-watching.told).Retry, "nothing is missing any more")
}

func TestWatch_NoticesADefinitionMadeBeforeItBegan(t *testing.T) {
	w := newWorld()
	f := w.process()
	result, o := run(t, f, project(), set(t, widget))
	run(t, w.process(), gitops.Project{Key: "3-4"}, set(t, widgetDefinition))
	watching := watch(t, f, project(), result, o)
	for now := range watching.told {
		if now.Retry {
			return
		}
	}
}

package gitops_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
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

func TestWatch_TellsWhenSomebodyMakesAMissingNamespace(t *testing.T) {
	for name, missing := range map[string]error{"missing": gitops.ErrNoNamespace, "being deleted": gitops.ErrNamespaceEnds} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			f := w.process()
			f.fault = func(call string) error {
				if call == "before apply a" {
					return &gitops.KindError{Kind: missing, Err: missing}
				}
				return nil
			}
			home := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "home"}}}
			id := inventory.IDOf(home)
			if errors.Is(missing, gitops.ErrNamespaceEnds) {
				ending := home.DeepCopy()
				now := metav1.Now()
				ending.SetDeletionTimestamp(&now)
				w.put(ending, inventory.Hash{}, false)
			}
			docs := []string{`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: home}}`, cm("b", "1")}
			result, o := run(t, f, project(), set(t, docs...))
			require.Equal(t, 1, result.Failed)
			watching := watch(t, f, project(), result, o)
			require.False(t, (<-watching.told).Retry)
			for retry := false; !retry; {
				w.remove(id)
				<-time.After(time.Millisecond) // it has to look before, and may not have
				w.put(home, inventory.Hash{}, false)
				select {
				case r := <-watching.told:
					retry = r.Retry
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
}

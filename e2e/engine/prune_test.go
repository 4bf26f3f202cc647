package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestRun_ForegroundPruneDoesNotWaitForTheGarbageCollector(t *testing.T) {
	const n = 300
	a := newAgent(t)
	a.project.Propagation = "Foreground"
	a.sync(append(docs("cm", "1", n), configMap("rest", "1"))...)
	a.requests.reset()

	l := newLog()
	began := time.Now()
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, configMap("rest", "1")), l)
	require.NoError(t, err)
	// What the deletions themselves take depends on the machine. Whoever waits for more than
	// that they show does so for all of the time.
	waited := time.Since(*a.requests.deleted.Load())
	t.Logf("run over after %s, %s of them after the last deletion", time.Since(began), waited)
	require.Less(t, waited, goneTimeout, "deletions have begun, and that is all that is waited for")
	ready := watch(t, a, result, l)
	testkit.Eventually(t, func() error { return ready.is(true, 0) })
	took, writes := time.Since(began), a.requests.writes.Load()
	t.Logf("all gone after %s, %d requests besides the deletions", took, writes-n)
	require.Len(t, a.inventory(), 1)
	require.LessOrEqual(t, writes-n, int64(took/time.Second)+4, "inventory writes")
}

// goneTimeout is the engine's.
const goneTimeout = 5 * time.Second

func TestRun_HeldDeletionIsNamedAndBlocksNothing(t *testing.T) {
	a := newAgent(t)
	a.project.Propagation = "Foreground"
	a.project.PruneTimeout = 100 * time.Millisecond
	a.sync(configMap("held", "1"), configMap("rest", "1"))
	hold := func(patch string) {
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), "held",
			types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	hold(`{"metadata":{"finalizers":["example.com/hold"]}}`)

	set := desired(t, configMap("rest", "1"))
	l := newLog()
	result, err := gitops.Run(t.Context(), a.cluster, a.project, set, l)
	require.NoError(t, err)
	ready := watch(t, a, result, l)
	testkit.Eventually(t, func() error {
		ready.mu.Lock()
		defer ready.mu.Unlock()
		if ready.told == nil || len(ready.told.Late) != 1 || ready.told.Late[0].Name != "held" {
			return errNotSo
		}
		return nil
	})
	ready.stop()
	require.Equal(t, gitops.ActionPruning, l.get("ConfigMap/held").Action)
	require.Contains(t, l.get("ConfigMap/held").Message, "example.com/hold")

	// A newer commit is not held up, and the record stays.
	value := 1
	testkit.Eventually(t, func() error { // what is held up is so each time
		value++
		began := time.Now()
		_, l = a.sync(configMap("rest", fmt.Sprint(value)))
		if took := time.Since(began); took >= goneTimeout {
			return fmt.Errorf("it took %s", took)
		}
		return nil
	})
	require.Equal(t, gitops.ActionConfigured, l.get("ConfigMap/rest").Action)
	require.Equal(t, gitops.ActionPruning, l.get("ConfigMap/held").Action)
	require.Len(t, a.inventory(), 2)
	hold(`{"metadata":{"finalizers":null}}`)
	testkit.Eventually(t, func() error {
		_, l = a.sync(configMap("rest", fmt.Sprint(value)))
		if len(a.inventory()) != 1 {
			return errNotSo
		}
		return nil
	})
}

func TestRun_ObjectMovedToAnotherProjectEndsUpThere(t *testing.T) {
	for _, row := range []struct {
		name     string
		newFirst bool
	}{
		{"the old project prunes first", false},
		{"the new project applies first", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAgent(t)
			a.sync(configMap("moved", "1"), configMap("rest", "1"))
			other := a.project
			other.Key = a.project.Key + "-b"
			set := desired(t, configMap("moved", "1"))
			take := func() gitops.Result {
				result, err := gitops.Run(t.Context(), a.cluster, other, set, newLog())
				require.NoError(t, err)
				return result
			}
			if row.newFirst {
				result := take()
				require.Equal(t, 1, result.Failed, "it is still the old project's")
				waiting := *a
				waiting.project = other
				ready := watch(t, &waiting, result, newLog())
				a.sync(configMap("rest", "1"))
				testkit.Eventually(t, func() error { return ready.drifted(1) })
				ready.stop()
			} else {
				a.sync(configMap("rest", "1"))
			}
			require.Zero(t, take().Failed)
			_, l := a.sync(configMap("rest", "1"))
			require.Empty(t, l.removed)
			cm, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "moved", metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, other.Key, cm.Annotations[gitops.OwnerAnnotation])
			require.Equal(t, map[string]string{"key": "1"}, cm.Data)
		})
	}
}

func TestRun_NoticesWhatAnotherReplicaAppliedInOurName(t *testing.T) {
	a := newAgent(t)
	a.sync(configMap("one", "1"))
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, configMap("one", "1")), newLog())
	require.NoError(t, err)
	ready := watch(t, a, result, newLog())
	testkit.Eventually(t, func() error { return ready.is(true, 0) })
	applied := time.Now().Unix()
	testkit.Eventually(t, func() error {
		if time.Now().Unix() <= applied+1 {
			return errNotSo // managedFields know seconds
		}
		return nil
	})

	// A request that was on its way when the lease was lost arrives late.
	force := true
	_, err = a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), "one", types.ApplyPatchType,
		[]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","annotations":{"`+gitops.OwnerAnnotation+`":"`+
			a.project.Key+`"}},"data":{"key":"late"}}`),
		metav1.PatchOptions{FieldManager: "agentk", Force: &force})
	require.NoError(t, err)
	testkit.Eventually(t, func() error {
		if a.data("one")["key"] != "1" {
			return errNotSo
		}
		return nil
	})
	ready.stop()
}

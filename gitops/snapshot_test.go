package gitops_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

func TestSnapshot_TellsWhatTheObjectDoes(t *testing.T) {
	deployment := inventory.ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Name: "d"}
	for _, row := range []struct {
		name    string
		change  func(*unstructured.Unstructured)
		health  gitops.Health
		message string
	}{
		{"a rollout that has not begun", func(*unstructured.Unstructured) {}, gitops.HealthInProgress, "Replicas: 0/1"},
		{"an object that hangs", func(u *unstructured.Unstructured) {
			now := metav1.Now()
			u.SetDeletionTimestamp(&now)
			u.SetFinalizers([]string{"example.com/hold"})
		}, gitops.HealthTerminating, "being deleted, held by finalizer example.com/hold"},
	} {
		for _, owner := range []string{"", "1-2"} { // what is ours is judged at once
			t.Run(row.name+" of "+owner, func(t *testing.T) {
				u := &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": "apps/v1", "kind": "Deployment",
					"metadata": map[string]any{"name": "d", "generation": int64(1)},
					"spec":     map[string]any{"replicas": int64(1)},
					"status":   map[string]any{"observedGeneration": int64(1)},
				}}
				if owner != "" {
					u.SetAnnotations(map[string]string{gitops.OwnerAnnotation: owner})
				}
				row.change(u)
				s := snapshot(u)
				require.Equal(t, u.Object, s.Unstructured().Object)
				require.Equal(t, u.GetDeletionTimestamp() != nil, s.Deleting())
				for range 2 {
					health, message := gitops.HealthOf(deployment, gitops.Live{Object: s}, true)
					require.Equal(t, row.health, health)
					require.Contains(t, message, row.message)
				}
				s.Unstructured().SetName("other")
				require.Equal(t, "d", s.Unstructured().GetName(), "each caller has a value of its own")
			})
		}
	}
}

func TestSnapshotOfMetadata_IsTheObjectWithoutTheRest(t *testing.T) {
	s, err := gitops.SnapshotOfMetadata(&metav1.ObjectMeta{
		Name: "s", Namespace: "n", Annotations: map[string]string{"a": "b"},
	}, schema.GroupVersionKind{Version: "v1", Kind: "Secret"})
	require.NoError(t, err)
	u := s.Unstructured()
	require.Equal(t, "Secret", u.GetKind())
	require.Equal(t, "n", u.GetNamespace())
	require.Equal(t, map[string]string{"a": "b"}, u.GetAnnotations())
	id := inventory.ID{GroupKind: schema.GroupKind{Kind: "Secret"}, Namespace: "n", Name: "s"}
	health, _ := gitops.HealthOf(id, gitops.Live{Object: s}, true)
	require.Equal(t, gitops.HealthCurrent, health)
}

func TestSnapshot_OfNothingIsNothing(t *testing.T) {
	var s *gitops.Snapshot
	require.Nil(t, s.Unstructured())
	require.False(t, s.Deleting())
}

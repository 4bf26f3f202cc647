package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/gitops"
)

func TestRun_CreatesChangesLeavesAndPrunes(t *testing.T) {
	a := newAgent(t)

	result, l := a.sync(configMap("one", "1"), configMap("two", "1"))
	require.Equal(t, 2, result.Total)
	require.Zero(t, result.Failed)
	require.Equal(t, gitops.ActionCreated, l.get("ConfigMap/one").Action)
	require.Equal(t, map[string]string{"key": "1"}, a.data("one"))
	require.Len(t, a.inventory(), 2)

	a.requests.reset()
	_, l = a.sync(configMap("one", "2"), configMap("two", "1"))
	require.Equal(t, gitops.ActionConfigured, l.get("ConfigMap/one").Action)
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/two").Action)
	require.Equal(t, map[string]string{"key": "2"}, a.data("one"))
	require.EqualValues(t, 2, a.requests.writes.Load(), "one apply and one inventory write")
	require.Zero(t, a.requests.reads.Load())

	_, l = a.sync(configMap("one", "2"))
	require.Equal(t, gitops.ActionPruned, l.get("ConfigMap/two").Action)
	require.Equal(t, []string{"ConfigMap/two"}, l.removed)
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "two", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
	require.Len(t, a.inventory(), 1)
}

func TestRun_UnchangedSetCostsNoRequest(t *testing.T) {
	a := newAgent(t)
	a.sync(configMap("one", "1"))
	a.requests.reset()

	_, l := a.sync(configMap("one", "1"))
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/one").Action)
	require.Equal(t, gitops.HealthCurrent, l.get("ConfigMap/one").Health)
	require.Zero(t, a.requests.writes.Load())
	require.Zero(t, a.requests.reads.Load())

	a.restart()
	_, l = a.sync(configMap("one", "1"))
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/one").Action)
	require.Zero(t, a.requests.writes.Load(), "nor a write after a restart")
}

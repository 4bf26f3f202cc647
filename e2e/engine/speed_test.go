package engine_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
)

// docs are n ConfigMaps.
func docs(prefix, value string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = configMap(fmt.Sprintf("%s-%05d", prefix, i), value)
	}
	return out
}

func TestRun_ManyObjectsCostFewInventoryWrites(t *testing.T) {
	const n = 1000
	a := newAgent(t)
	set := desired(t, docs("cm", "1", n)...)
	a.requests.reset()

	began := time.Now()
	result, err := gitops.Run(t.Context(), a.cluster, a.project, set, newLog())
	require.NoError(t, err)
	took := time.Since(began)
	require.Zero(t, result.Failed)
	require.Len(t, a.inventory(), n)
	inventoryWrites := a.requests.writes.Load() - n
	require.LessOrEqual(t, inventoryWrites, int64(12))
	t.Logf("%d applied in %s (%.0f/s), %d inventory writes", n, took, n/took.Seconds(), inventoryWrites)
	t.Logf("a bare client: %.0f/s", bare(t, a, n))

	a.requests.reset()
	cpu, began := cpuTime(t), time.Now()
	_, err = gitops.Run(t.Context(), a.cluster, a.project, set, newLog())
	require.NoError(t, err)
	t.Logf("unchanged in %s, %s CPU", time.Since(began), cpuTime(t)-cpu)
	require.Zero(t, a.requests.writes.Load()+a.requests.reads.Load())

	began = time.Now()
	_, l := a.sync(configMap("rest", "1"))
	t.Logf("pruned in %s", time.Since(began))
	require.Len(t, l.removed, n)
}

// bare applies n ConfigMaps with nothing but a client, and returns how many a second.
func bare(t *testing.T, a *agent, n int) float64 {
	t.Helper()
	client := a.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(a.namespace)
	var g errgroup.Group
	g.SetLimit(64)
	began := time.Now()
	for i := range n {
		g.Go(func() error {
			u := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "ConfigMap",
				"metadata": map[string]any{"name": fmt.Sprintf("bare-%05d", i)},
				"data":     map[string]any{"key": "1"},
			}}
			_, err := client.Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "bare", Force: true})
			return err
		})
	}
	require.NoError(t, g.Wait())
	return float64(n) / time.Since(began).Seconds()
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

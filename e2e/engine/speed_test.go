package engine_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

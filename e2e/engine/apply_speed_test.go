package engine_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/gitops"
)

// TestRun_ColdApplyIsCloseToTheRawLimit compares the engine with a bare client, in
// turns. The machine may be busy with something else, so the bar is low here unless
// ENGINE_COLD_RATIO asks for more; bench/ measures in earnest.
func TestRun_ColdApplyIsCloseToTheRawLimit(t *testing.T) {
	const n, rounds = 1000, 3
	least := 0.4
	if value, err := strconv.ParseFloat(os.Getenv("ENGINE_COLD_RATIO"), 64); err == nil {
		least = value
	}
	var best float64
	for range rounds {
		a := newAgent(t)
		set := desired(t, docs("cm", "1", n)...)
		began := time.Now()
		result, err := gitops.Run(t.Context(), a.cluster, a.project, set, newLog())
		took := time.Since(began)
		require.NoError(t, err)
		require.Zero(t, result.Failed)
		a.stop() // its informers would slow the bare client down
		engine, raw := n/took.Seconds(), bare(t, a, n)
		t.Logf("engine %.0f/s, bare client %.0f/s: %.0f %%", engine, raw, 100*engine/raw)
		best = max(best, engine/raw)
		// The next engine lists all there is.
		require.NoError(t, a.client.CoreV1().ConfigMaps(a.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	}
	require.GreaterOrEqual(t, best, least)
}

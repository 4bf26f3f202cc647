package ror

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
)

func TestMetrics_AreDocumented(t *testing.T) {
	registry := admin.NewRegistry()
	_, err := newMetrics(registry)
	require.NoError(t, err)
	traces := tracing.Options{Endpoint: "http://127.0.0.1:1/v1/traces"}
	_, stop, err := traces.Start(t.Context(), "ror", registry, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(stop)
	testkit.MetricsDocumented(t, registry, "../docs/metrics.md", "ror")
}

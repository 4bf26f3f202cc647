package agentk

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
)

func TestMetrics_AreDocumented(t *testing.T) {
	registry, log := admin.NewRegistry(), testkit.Logger(t)
	_, err := newMetrics(registry)
	require.NoError(t, err)
	_, err = tunnel.NewMetrics(registry)
	require.NoError(t, err)
	flags, nowhere := genericclioptions.NewConfigFlags(false), "http://127.0.0.1:1"
	flags.APIServer = &nowhere
	k, err := newKubernetes(flags, "default", "me", &Config{Registry: registry, Log: log})
	require.NoError(t, err)
	t.Cleanup(k.api.Close)
	traces := tracing.Options{Endpoint: "http://127.0.0.1:1/v1/traces"}
	_, stop, err := traces.Start(t.Context(), "agentk", registry, log)
	require.NoError(t, err)
	t.Cleanup(stop)
	testkit.MetricsDocumented(t, registry, "../docs/metrics.md", "agentk")
}

package kas

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
)

// Everything that registers metrics is configured: Redis, the proxy, and traces.
func TestMetrics_AreDocumented(t *testing.T) {
	secretFile := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secretFile, []byte(base64.StdEncoding.EncodeToString(secret)), 0o600))
	cfg := load(t, writeConfiguration(t, fmt.Sprintf(`
gitlab: {address: "http://127.0.0.1:1", authentication_secret_file: %[1]q}
agent: {kubernetes_api: {}}
observability: {tracing: {otlp_endpoint: "http://127.0.0.1:1/v1/traces"}}
redis: {server: {address: "127.0.0.1:1"}}
private_api: {listen: {authentication_secret_file: %[1]q}}
`, secretFile)))
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	log := testkit.Logger(t)
	h, err := build(t.Context(), Options{Configuration: cfg, Log: log}, listener)
	require.NoError(t, err)
	testkit.MetricsDocumented(t, h.metrics, "../docs/metrics.md", "kas")
	h.close(t.Context(), log)
}

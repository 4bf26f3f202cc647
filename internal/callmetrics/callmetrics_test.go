package callmetrics

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counts waits until so many calls were measured, by method and code.
func counts(t *testing.T, registry *prometheus.Registry, want map[string]uint64) {
	t.Helper()
	testkit.Eventually(t, func() error {
		families, err := registry.Gather()
		require.NoError(t, err)
		got := map[string]uint64{}
		for _, m := range families[0].GetMetric() {
			got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
		}
		for key, n := range want {
			if got[key] != n {
				return errors.New("counted otherwise")
			}
		}
		require.Len(t, got, len(want), "%v", got)
		return nil
	})
}

func TestDialOptions_MeasureHowCallsEnd(t *testing.T) {
	server := grpc.NewServer()
	checks := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, checks)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- testkit.Serve(server, l) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
	})
	registry := prometheus.NewRegistry()
	options, err := DialOptions(registry, "call_seconds", "Calls.")
	require.NoError(t, err)
	conn, err := grpc.NewClient(l.Addr().String(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	client := grpc_health_v1.NewHealthClient(conn)

	_, err = client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "none"})
	require.Error(t, err)
	gone, cancel := context.WithCancel(t.Context())
	stream, err := client.Watch(gone, &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	cancel()
	_, err = stream.Recv()
	require.False(t, err == nil || errors.Is(err, io.EOF))
	_, err = client.Watch(gone, &grpc_health_v1.HealthCheckRequest{}) // which is none any more
	require.Error(t, err)
	counts(t, registry, map[string]uint64{"Check OK": 1, "Check NotFound": 1, "Watch Canceled": 2})
}

func TestDialOptions_OfANameThatIsTaken(t *testing.T) {
	registry := prometheus.NewRegistry()
	_, err := DialOptions(registry, "call_seconds", "Calls.")
	require.NoError(t, err)
	_, err = DialOptions(registry, "call_seconds", "Calls.")
	require.Error(t, err)
	require.Zero(t, testutil.CollectAndCount(registry))
}

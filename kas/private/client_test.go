package private

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/testkit"
)

func TestClient_TrustsWhomItIsTold(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil)
	web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	secure := NewServer(ServerConfig{
		Secret: testSecret, Clock: clock.RealClock{}, TLS: &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12},
	}, nil, zap.NewNop())
	url := "grpcs://" + serve(t, secure)
	check := func(roots *x509.CertPool) error {
		client := start(t, func(c *ClientConfig) { c.RootCAs = roots }).client
		_, err := grpc_health_v1.NewHealthClient(client.Conn(url)).Check(within(t), &grpc_health_v1.HealthCheckRequest{})
		return err
	}
	require.ErrorContains(t, check(x509.NewCertPool()), "certificate signed by unknown authority")
	require.NoError(t, check(pool))
	plain := start(t, func(c *ClientConfig) { c.OnlyTLS = true })
	_, err := plain.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{})
	require.True(t, notBegun(err))
	require.ErrorContains(t, err, "is plaintext")
}

func TestClient_ReplicaIsKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	r := start(t)
	both, err := r.stub(7).FullDuplexCall(within(t))
	require.NoError(t, err)
	calls := make(chan error, 1)
	go func() {
		_, err := r.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{FillUsername: true})
		calls <- err
	}()
	<-r.agent.waiting
	r.server.Stop()
	_, err = both.Recv()
	for _, err := range []error{err, <-calls} {
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		require.False(t, notBegun(err), "it may have been done")
	}
	_, err = r.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{})
	require.True(t, notBegun(err), "%v", err)
}

func TestClient_NoticesAReplicaThatIsSilent(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *ClientConfig) { c.PingPeriod, c.PingTimeout = 20*time.Millisecond, 300*time.Millisecond })
	hole := newHole(t, strings.TrimPrefix(r.url, "grpc://"))
	r.url = "grpc://" + hole.address
	var both grpc.BidiStreamingClient[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]
	testkit.Eventually(t, func() (err error) { // a machine that is busy may give no sign of life in time either
		if both, err = r.stub(7).FullDuplexCall(within(t)); err != nil {
			return err
		}
		if err = both.Send(&testgrpc.StreamingOutputCallRequest{}); err == nil || errors.Is(err, io.EOF) {
			_, err = both.Recv()
		}
		return err
	})
	hole.swallow()
	_, err := both.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err) // and not that it has waited long enough
	require.Contains(t, err.Error(), "was lost in the middle of the call")
	require.NotZero(t, r.logs.FilterMessageSnippet("gives no sign of life").Len())
	// A new connection does not come about either, which is no news about the call.
	_, err = r.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{})
	require.True(t, notBegun(err), "%v", err)
}

func TestClient_LetsGoOfWhomNobodyCalls(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *ClientConfig) {
		c.PingPeriod, c.IdleTimeout, c.MaxConnections = 10*time.Millisecond, 50*time.Millisecond, 2
	})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	both, err := r.stub(7).FullDuplexCall(ctx)
	require.NoError(t, err)
	for _, url := range []string{"grpc://127.0.0.1:1", "grpc://127.0.0.1:2"} { // the first makes room
		_, err := r.client.Conn(url).NewStream(ctx, descOf(streaming), "/a/b")
		require.Error(t, err)
	}
	testkit.Eventually(t, func() error {
		r.client.mu.Lock()
		defer r.client.mu.Unlock()
		if len(r.client.replicas) != 1 || r.client.replicas[kind{r.url, false}] == nil {
			return errors.New("others are kept")
		}
		return nil
	})
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
	_, err = both.Recv()
	require.NoError(t, err, "who is called is kept")
	cancel()
	testkit.Eventually(t, func() error {
		r.client.mu.Lock()
		defer r.client.mu.Unlock()
		if len(r.client.replicas) != 0 {
			return errors.New("it is kept")
		}
		return nil
	})
}

func TestClient_IsBounded(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *ClientConfig) { c.MaxConnections = 1 })
	_, err := r.stub(7).FullDuplexCall(within(t))
	require.NoError(t, err)
	_, err = r.client.Conn("grpc://127.0.0.1:1").NewStream(within(t), &grpc.StreamDesc{}, "/a/b")
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Contains(t, err.Error(), "kas has 1 connections to other replicas, and uses them all")
}

func TestNewClient_RefusesMetricsTwice(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	_, err := NewClient(ClientConfig{}, zap.NewNop(), registry)
	require.NoError(t, err)
	_, err = NewClient(ClientConfig{}, zap.NewNop(), registry)
	require.Error(t, err)
}

package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	agentend "github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tunnelwire"
	"github.com/kas-agentk/kas/internal/wstransport"
	kasend "github.com/kas-agentk/kas/kas/tunnel"
)

const (
	agentID = 7
	token   = "secret"
)

// transport is a kind of --kas-address.
type transport struct {
	scheme            string
	secure, webSocket bool
	// elsewhere: who asks, asks another kas than the one that the agent is connected to.
	elsewhere bool
}

var transports = []transport{
	{"grpc", false, false, false},
	{"grpcs", true, false, false},
	{"ws", false, true, false},
	{"wss", true, true, false},
	{"grpc", false, false, true},
}

func (t transport) name() string {
	if t.elsewhere {
		return t.scheme + " by way of another kas"
	}
	return t.scheme
}

// over runs a test over every transport, with a rig of its own each.
func over(t *testing.T, s *service, test func(t *testing.T, r *rig)) {
	t.Helper()
	for _, with := range transports {
		t.Run(with.name(), func(t *testing.T) {
			r := newRig(t, with)
			r.connect(s)
			test(t, r)
		})
	}
}

// ror lets one agent in, until it is revoked.
type ror struct {
	mu      sync.Mutex
	revoked bool
	bell    chan struct{}
}

// Agent implements the Access of kas/tunnel.
func (r *ror) Agent(_ context.Context, bearer string) (gitlabapi.AgentInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.revoked || bearer != token {
		return gitlabapi.AgentInfo{}, status.Error(codes.Unauthenticated, "unknown token")
	}
	return gitlabapi.AgentInfo{AgentID: agentID}, nil
}

// Rechecked implements the Access of kas/tunnel.
func (r *ror) Rechecked(int64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bell
}

func (r *ror) revoke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revoked = true
	close(r.bell)
	r.bell = make(chan struct{})
}

// rig is both ends, each as its process has it, and what is between them.
type rig struct {
	tb      testing.TB
	over    transport
	ror     *ror
	metrics *prometheus.Registry
	kas     *kasend.Server
	server  *grpc.Server
	address string
	trust   *tls.Config
	// client asks the agent.
	client testgrpc.TestServiceClient
	// drain ends kas's end as SIGTERM does, and waits for it.
	drain func()
	// leave ends the agent's end, and waits for it.
	leave func()
	// ended has why streams ended, at the agent's end.
	ended chan error

	mu    sync.Mutex
	wires []net.Conn
}

// newRig starts kas's end.
func newRig(tb testing.TB, with transport) *rig {
	tb.Helper()
	r := &rig{tb: tb, over: with, ror: &ror{bell: make(chan struct{})}, metrics: prometheus.NewRegistry(), ended: make(chan error, 1000), leave: func() {}}
	var err error
	r.kas, err = kasend.NewServer(kasend.Config{RecheckPeriod: 100 * time.Millisecond}, kasend.Collaborators{Access: r.ror, Registerer: r.metrics})
	require.NoError(tb, err)
	r.client = testgrpc.NewTestServiceClient(r.kas.Conn(agentID))
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	r.address = l.Addr().String()
	creds, cfg := insecure.NewCredentials(), (*tls.Config)(nil)
	if with.secure {
		cfg, r.trust = certificates()
	}
	if cfg != nil && !with.webSocket {
		creds = credentials.NewTLS(cfg)
	}
	r.server = grpc.NewServer(append(grpctool.ServerWindows(), // as kas makes it
		grpc.Creds(creds), grpc.ForceServerCodecV2(tunnelwire.Codec()), grpc.MaxRecvMsgSize(grpctool.MaxMessageSize), grpc.MaxConcurrentStreams(5000),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: grpctool.MinPingInterval, PermitWithoutStream: true}))...)
	agentrpc.RegisterReverseTunnelServer(r.server, r.kas)
	var g errgroup.Group
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	if with.webSocket {
		upgraded := wstransport.NewListener(l, wstransport.ListenerConfig{TLS: cfg})
		g.Go(func() error { return upgraded.Run(context.WithoutCancel(tb.Context())) })
		l = upgraded
	}
	var others *neighbour
	if with.elsewhere {
		others = newNeighbour(tb, r.kas)
		r.client = testgrpc.NewTestServiceClient(others.kas.Conn(agentID))
	}
	g.Go(func() error { return testkit.Serve(r.server, l) })
	g.Go(func() error { return r.kas.Run(ctx) })
	r.drain = sync.OnceFunc(func() {
		cancel()
		r.server.GracefulStop()
		require.NoError(tb, g.Wait())
		if others != nil {
			others.drain()
		}
	})
	tb.Cleanup(func() {
		r.leave()
		r.drain()
		if others != nil {
			others.end()
		}
		r.requireStreams(0, 0)
	})
	return r
}

// certificates returns a server's TLS configuration and that of a client that trusts it.
func certificates() (server, client *tls.Config) {
	web := httptest.NewTLSServer(nil)
	web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	return &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12},
		&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// connect starts the agent's end, with further services, and waits for it.
func (r *rig) connect(s *service, more ...func(grpc.ServiceRegistrar)) {
	r.tb.Helper()
	conn, err := r.newConn()
	require.NoError(r.tb, err)
	quick := retry.Policy{Initial: time.Millisecond, Max: 20 * time.Millisecond}
	agent := agentend.NewServer(agentend.Config{
		Client: agentrpc.NewReverseTunnelClient(conn),
		Meta: func(context.Context) *agentrpc.AgentMeta {
			return &agentrpc.AgentMeta{InstanceId: 1, PodName: "agentk-0"}
		},
		Log:     testkit.Logger(r.tb),
		Ended:   func(err error) { r.ended <- err },
		Lost:    quick,
		Refused: quick,
	})
	testgrpc.RegisterTestServiceServer(agent, s)
	for _, register := range more {
		register(agent)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.tb.Context()))
	ran := make(chan error, 1)
	go func() { ran <- agent.Run(ctx) }()
	r.leave = sync.OnceFunc(func() {
		cancel()
		require.NoError(r.tb, <-ran)
		require.NoError(r.tb, conn.Close())
	})
	r.awaitIdle()
}

// awaitIdle waits until an agent is connected.
func (r *rig) awaitIdle() {
	r.tb.Helper()
	testkit.Eventually(r.tb, func() error {
		if idle, _ := r.streams(); idle == 0 {
			return errors.New("no stream is open")
		}
		return nil
	})
}

// newConn makes the agent's connection, as agentk makes it.
func (r *rig) newConn() (*grpc.ClientConn, error) {
	dial, creds := r.dialTCP, insecure.NewCredentials()
	switch {
	case r.over.webSocket:
		d := &wstransport.Dialer{
			URL: &url.URL{Scheme: r.over.scheme, Host: r.address, Path: "/-/kas"}, TLS: r.trust,
			Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		}
		dial, creds = d.Dial, d.Credentials()
	case r.over.secure:
		creds = credentials.NewTLS(r.trust)
	}
	return grpc.NewClient("passthrough:///"+r.address, append(grpctool.ClientWindows(), grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			c, err := dial(ctx, address)
			if err == nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.wires = append(r.wires, c)
			}
			return c, err
		}),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: func() (string, error) { return token, nil }, Plaintext: !r.over.secure}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpctool.MaxMessageSize), grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 3 * time.Second}))...)
}

func (r *rig) dialTCP(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// cut ends the connections that there are, as when the network breaks.
func (r *rig) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.wires {
		_ = c.Close()
	}
	r.wires = nil
}

// streams are how many kas has, by its metrics.
func (r *rig) streams() (idle, busy float64) {
	r.tb.Helper()
	families, err := r.metrics.Gather()
	require.NoError(r.tb, err)
	for _, family := range families {
		if family.GetName() != "kas_tunnel_streams" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == "idle" {
				idle = m.GetGauge().GetValue()
			} else {
				busy = m.GetGauge().GetValue()
			}
		}
	}
	return idle, busy
}

// awaitBusy waits until as many streams are busy.
func (r *rig) awaitBusy(want float64) {
	r.tb.Helper()
	testkit.Eventually(r.tb, func() error {
		if _, busy := r.streams(); busy != want {
			return fmt.Errorf("%v streams are busy, want %v", busy, want)
		}
		return nil
	})
}

func (r *rig) requireStreams(idle, busy float64) {
	r.tb.Helper()
	gotIdle, gotBusy := r.streams()
	require.Equal(r.tb, [2]float64{idle, busy}, [2]float64{gotIdle, gotBusy}, "idle and busy streams")
}

// works makes sure that the tunnel is as good as new.
func (r *rig) works() {
	r.tb.Helper()
	got, err := r.client.UnaryCall(r.tb.Context(), &testgrpc.SimpleRequest{Payload: payload(3)})
	require.NoError(r.tb, err)
	require.Len(r.tb, got.GetPayload().GetBody(), 3)
	r.awaitBusy(0)
}

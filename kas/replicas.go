package kas

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/kas/agents"
	"github.com/kas-agentk/kas/kas/private"
	"github.com/kas-agentk/kas/kas/rails"
	"github.com/kas-agentk/kas/kas/replicas"
	"github.com/kas-agentk/kas/kas/tunnel"
)

// many is what a kas has that is one of several replicas.
type many struct {
	replicas *replicas.Replicas
	calls    *private.Client
	presence *presence
	// secret is what replicas share; tls of the private API, nil: plaintext.
	secret  []byte
	tls     *tls.Config
	tracing *tracing.Tracing
}

// newMany sets up what replicas need; nil: this kas is alone.
func newMany(cfg *kascfg.ConfigurationFile, listener net.Listener, traced *tracing.Tracing, log *zap.Logger, registerer prometheus.Registerer) (*many, error) {
	if cfg.GetRedis() == nil {
		return nil, nil
	}
	api := cfg.GetPrivateApi()
	self, err := ownURL(api, listener.Addr())
	if err != nil {
		return nil, err
	}
	m := &many{tracing: traced}
	if m.secret, err = jwtauth.LoadSecret(api.GetListen().GetAuthenticationSecretFile()); err != nil {
		return nil, wrong(privateListen+".authentication_secret_file", "%w", err)
	}
	if m.tls, err = serverTLS(privateListen, api.GetListen(), log); err != nil {
		return nil, err
	}
	redis, err := redisOf(cfg.GetRedis())
	if err != nil {
		return nil, err
	}
	m.replicas, err = replicas.New(replicas.Config{Self: self, Redis: redis, Clock: clock.RealClock{}}, replicas.Collaborators{Registerer: registerer, Log: log})
	if err != nil {
		return nil, fmt.Errorf("set up replicas: %w", err)
	}
	roots, err := rootCAs("private_api.ca_certificate_file", api.GetCaCertificateFile())
	if err != nil {
		return nil, err
	}
	if m.calls, err = private.NewClient(private.ClientConfig{
		Secret: m.secret, RootCAs: roots, OnlyTLS: strings.HasPrefix(self, "grpcs:"), Options: traced.DialOptions(),
	}, log, registerer); err != nil {
		return nil, fmt.Errorf("set up calls of replicas: %w", err)
	}
	m.presence = newPresence(self, m.replicas, clock.RealClock{})
	return m, nil
}

// server makes the private API.
func (m *many) server(agents private.Agents, observer *observer, drain *drain, log *zap.Logger) *grpc.Server {
	return private.NewServer(private.ServerConfig{
		Secret: m.secret, TLS: m.tls, Clock: clock.RealClock{},
		Unary:   []grpc.UnaryServerInterceptor{observer.unary},
		Stream:  []grpc.StreamServerInterceptor{observer.stream, drain.longStream},
		Options: m.tracing.ServerOptions(),
	}, tracedHere(agents, m.tracing), log)
}

// longStream is stream for the private API, where unary RPCs are streams as well: as
// everywhere, kas waits for these when it stops.
func (d *drain) longStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if private.IsUnary(stream.Context()) {
		return handler(srv, stream)
	}
	return d.stream(srv, stream, info, handler)
}

// run runs what replicas need until ctx ends. leave takes back what this one has told the
// others, so that they send nobody here any more, and returns when that is done.
func (m *many) run(ctx context.Context, g *errgroup.Group) (leave func()) {
	telling, stop := context.WithCancel(ctx)
	left := make(chan struct{})
	g.Go(func() error { return m.calls.Run(ctx) })
	g.Go(func() error { return m.presence.run(telling) })
	g.Go(func() error {
		defer close(left)
		return m.replicas.Run(telling)
	})
	return func() {
		stop()
		<-left
	}
}

// everywhere lists who is connected to any replica.
func (m *many) everywhere(registry *agents.Registry, here *tunnel.Server) rails.Agents {
	if m == nil {
		return onlyHere(registry.Connected)
	}
	m.presence.connected, m.presence.services = registry.Connected, here.Services
	return m.presence
}

// elsewhere is where agents are that are not here, for the tunnel.
type elsewhere struct {
	*replicas.Replicas
	calls *private.Client
}

// NewStream implements tunnel.Replicas.
func (e elsewhere) NewStream(ctx context.Context, url string, agentID int64, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return e.calls.NewStream(ctx, url, agentID, desc, method, options...)
}

// others are the replicas that an agent may be connected to; nil: this kas is alone.
func (m *many) others() tunnel.Replicas {
	if m == nil {
		return nil
	}
	return elsewhere{m.replicas, m.calls}
}

// noted is called when what is here of an agent has changed; nil: nobody wants to know.
func (m *many) noted() func(agentID int64) {
	if m == nil {
		return nil
	}
	return m.presence.note
}

package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/tracing"
)

const (
	// headerTime is how long a client may take to send a request's head, idleTime how long
	// a connection may be silent between requests. Requests themselves may last for days.
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	// maxHeaders of a request, in bytes.
	maxHeaders = 64 << 10
	// maxStreams of one HTTP/2 connection: watches are many.
	maxStreams = 1000
	// pingAfter is how long an HTTP/2 connection may be silent before it is asked whether
	// it lives; pingTimeout is how long the answer may take.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// RoR says who may reach which cluster, and as whom. Its errors wrap gitlabapi's sentinels.
type RoR interface {
	AuthorizeProxyUser(ctx context.Context, request gitlabapi.ProxyUserRequest) (gitlabapi.ProxyUser, error)
	AllowedAgents(ctx context.Context, jobToken string) (gitlabapi.AllowedAgents, error)
}

// Agents are the agents as connections. An RPC to one that is not connected waits for it a
// while, and fails with UNAVAILABLE.
type Agents interface {
	Conn(agentID int64) grpc.ClientConnInterface
}

// Standing is whether an agent is connected.
type Standing int

const (
	// Absent is connected to no kas, and was not lately.
	Absent Standing = iota
	// Expected is not connected, and was lately, or may have been.
	Expected
	// Connected is connected, to whichever kas.
	Connected
)

// Presence says whether agents are connected.
type Presence interface {
	// Of returns at once or soon.
	Of(ctx context.Context, agentID int64) Standing
}

// everywhere has all agents connected.
type everywhere struct{}

// Of implements Presence.
func (everywhere) Of(context.Context, int64) Standing { return Connected }

// Limiter bounds how many requests one person or CI job makes.
type Limiter interface {
	// Allow counts a request. key stands for who makes it and is no secret. Where it is one
	// too many, retryAfter says when another may be let through.
	Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration)
}

// Config of a Server. What is zero has the default that is named.
type Config struct {
	// URLPathPrefix is where the proxy begins in the path of URLs: "/k8s-proxy/".
	URLPathPrefix string
	// AllowedOrigins are those of pages whose scripts may ask, for example
	// "https://gitlab.example.com". None: no page's.
	AllowedOrigins []string
	// TTL is how long RoR's answers are believed, ErrorTTL how long its refusals. Zero: not
	// at all. Long requests are authorised anew each TTL, and at most every ten seconds.
	TTL, ErrorTTL time.Duration
	// AgentWait is how long a request waits for its agent, which is connected, to take it:
	// 15 s.
	AgentWait time.Duration
	// ReconnectWait is how long it waits for one that is expected. Zero: not at all.
	ReconnectWait time.Duration
	// DrainGrace is how long requests may go on when Run's context has ended: 5 s.
	DrainGrace time.Duration
	// TLS of the listener. Nil: plaintext.
	TLS *tls.Config
	// Tracing makes a span of each request that ends soon. Nil: nothing does.
	Tracing *tracing.Tracing
	// Clock. Nil: the real one.
	Clock clock.WithTickerAndDelayedExecution
}

func (c Config) withDefaults() Config {
	c.URLPathPrefix = cmp.Or(c.URLPathPrefix, "/k8s-proxy/")
	c.AgentWait = cmp.Or(c.AgentWait, 15*time.Second)
	c.DrainGrace = cmp.Or(c.DrainGrace, 5*time.Second)
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return c
}

// Collaborators are whom a Server works with.
type Collaborators struct {
	RoR        RoR
	Agents     Agents
	Presence   Presence // nil: all agents are connected, as far as anybody knows
	Limiter    Limiter
	Registerer prometheus.Registerer
	Log        *zap.Logger
}

// Server is the proxy. It is an http.Handler for Run's server.
type Server struct {
	cfg      Config
	prefix   string // without the slash at its end
	agents   Agents
	presence Presence
	limiter  Limiter
	log      *zap.Logger
	metrics  *metrics
	access   *access
	running  *running
}

// NewServer returns a Server.
func NewServer(cfg Config, with Collaborators) (*Server, error) {
	m, err := newMetrics(with.Registerer)
	if err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if with.Presence == nil {
		with.Presence = everywhere{}
	}
	return &Server{
		cfg: cfg, prefix: strings.TrimSuffix(cfg.URLPathPrefix, "/"),
		agents: with.Agents, presence: with.Presence, limiter: with.Limiter, log: with.Log,
		metrics: m, access: newAccess(cfg, with.RoR, m), running: newRunning(),
	}, nil
}

// Run serves on l, which it closes, until ctx ends; then it drains. It must be called once.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	strangers, err := zap.NewStdLogAt(s.log, zap.DebugLevel) // what clients do wrong is theirs
	if err != nil {
		return fmt.Errorf("make a log: %w", err)
	}
	server := &http.Server{
		Handler:           s,
		TLSConfig:         s.cfg.TLS,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeaders,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
		},
		ErrorLog: strangers,
	}
	batches := &batching{Listener: l}
	defer batches.sending.Wait() // all connections are closed then
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.serve(server, batches); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the Kubernetes API proxy: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		s.drain(context.WithoutCancel(ctx), server)
		return nil
	})
	return g.Wait()
}

func (s *Server) serve(server *http.Server, l *batching) error {
	if s.cfg.TLS != nil {
		return server.ServeTLS(l, "", "") //nolint:wrapcheck // Run says what it was about
	}
	return server.Serve(l.Listener) //nolint:wrapcheck // Run says what it was about
}

// drain lets requests end, and ends those that do not in time.
func (s *Server) drain(ctx context.Context, server *http.Server) {
	s.running.endLong()
	grace, cancel := context.WithTimeout(ctx, s.cfg.DrainGrace)
	defer cancel()
	err := server.Shutdown(grace)
	s.running.endAll()
	if err != nil {
		_ = server.Close() // its connections are broken, which is what is wanted
	}
	s.running.wait()
}

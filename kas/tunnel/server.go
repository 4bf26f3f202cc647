package tunnel

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// Access says who an agent is. Its errors carry a gRPC status, which ends the stream when
// it is UNAUTHENTICATED, PERMISSION_DENIED or NOT_FOUND. Anything else is trouble that may
// pass: it ends a stream that is just opening, with UNAVAILABLE, and leaves others open.
// Answers may come from a cache.
type Access interface {
	// Agent returns who bears the token.
	Agent(ctx context.Context, token string) (gitlabapi.AgentInfo, error)
	// Rechecked returns a channel that is closed when there is reason to ask again about
	// an agent.
	Rechecked(agentID int64) <-chan struct{}
}

// Config of a Server. What is zero has the default that is named.
type Config struct {
	// Clock. Nil: the real one.
	Clock clock.WithTickerAndDelayedExecution
	// MaxStreams that one agentk process may have open: 4000.
	MaxStreams int
	// MaxProcesses that one agent may have connected: 32.
	MaxProcesses int
	// MaxIdle is how many idle streams kas asks of a process at most: 32.
	MaxIdle int
	// MaxWaiting is how many RPCs may wait for a stream of one agent: 4000.
	MaxWaiting int
	// ConnectWait is how long an RPC without a deadline waits for an agent that is not
	// connected: 10 s.
	ConnectWait time.Duration
	// CancelGrace is how long an agent may take to end an RPC whose caller has left, and
	// to say hello: 10 s.
	CancelGrace time.Duration
	// Quiet is how long demand must have been low before surplus streams are let go: 1 min.
	Quiet time.Duration
	// RecheckPeriod is how often the tokens of open streams are checked again: 10 s.
	RecheckPeriod time.Duration
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	c.MaxStreams = cmp.Or(c.MaxStreams, 4000)
	c.MaxProcesses = cmp.Or(c.MaxProcesses, 32)
	c.MaxIdle = cmp.Or(c.MaxIdle, 32)
	c.MaxWaiting = cmp.Or(c.MaxWaiting, 4000)
	c.ConnectWait = cmp.Or(c.ConnectWait, 10*time.Second)
	c.CancelGrace = cmp.Or(c.CancelGrace, 10*time.Second)
	c.Quiet = cmp.Or(c.Quiet, time.Minute)
	c.RecheckPeriod = cmp.Or(c.RecheckPeriod, 10*time.Second)
	return c
}

// Collaborators are whom a Server works with.
type Collaborators struct {
	Access     Access
	Registerer prometheus.Registerer
	// Replicas are the other kas. Nil: this one is alone.
	Replicas Replicas
	// Changed, unless nil, is called when what Services returns of an agent has changed. It
	// must not block, nor call the Server.
	Changed func(agentID int64)
}

// Server implements agentrpc.ReverseTunnelServer.
type Server struct {
	agentrpc.UnimplementedReverseTunnelServer

	cfg      Config
	access   Access
	replicas Replicas
	metrics  *metrics
	pool     *pool
	// open counts what uses streams: Connects, and goroutines that receive or cancel. It
	// grows under the pool's lock, while the pool is open or something is counted.
	open sync.WaitGroup
}

// errDraining ends streams when kas stops: the agent connects again, elsewhere or later.
var errDraining = status.Error(codes.Unavailable, "kas is shutting down")

// parallelChecks bounds how many tokens are being asked about at once.
const parallelChecks = 16

// NewServer returns a Server; register it with a gRPC server.
func NewServer(cfg Config, with Collaborators) (*Server, error) {
	m, err := newMetrics(with.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	s := &Server{cfg: cfg.withDefaults(), access: with.Access, replicas: with.Replicas, metrics: m}
	s.pool = newPool(s.cfg, m, with.Changed)
	return s, nil
}

// Conn returns the agent as a connection, to wherever it is connected. Its RPCs fail with a gRPC status: that which the
// agent's handler gave; UNIMPLEMENTED where agentk does not offer the service; UNAVAILABLE
// where the agent is not connected, or went away; RESOURCE_EXHAUSTED where too many RPCs
// wait for it, or a message is too large; DEADLINE_EXCEEDED and CANCELLED of the caller's
// context. The data of a *grpctool.Raw must not change after it was handed in.
func (s *Server) Conn(agentID int64) grpc.ClientConnInterface {
	return &conn{server: s, agentID: agentID, replicas: s.replicas}
}

// Here returns the agent as a connection that is for RPCs with it on this kas alone. It does
// not wait for an agent that is not connected here; errors of RPCs that have not begun have a
// method NotBegun, which returns true.
func (s *Server) Here(agentID int64) grpc.ClientConnInterface {
	return &conn{server: s, agentID: agentID, here: true}
}

// Services are those that the agent offers here, ordered; none: it is not connected here.
func (s *Server) Services(agentID int64) []string { return s.pool.services(agentID) }

// Run rechecks tokens and lets surplus streams go until ctx ends. Then it ends idle streams
// with UNAVAILABLE, busy ones when their RPC has ended, and returns nil when all have: stop
// the gRPC server without waiting for Run.
func (s *Server) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return s.every(ctx, s.cfg.Quiet, func(context.Context) { s.pool.calm() }) })
	g.Go(func() error { return s.every(ctx, s.cfg.RecheckPeriod, s.recheck) })
	err := g.Wait()
	s.pool.close()
	s.open.Wait()
	return err
}

// every does a job each period until ctx ends.
func (s *Server) every(ctx context.Context, period time.Duration, job func(context.Context)) error {
	ticker := s.cfg.Clock.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			job(ctx)
		}
	}
}

// recheck ends the streams of processes whose token is no longer good.
func (s *Server) recheck(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(parallelChecks)
	for _, p := range s.pool.processes() {
		g.Go(func() error {
			if why := s.check(ctx, p.token, p.agent.id); why != nil {
				s.pool.expel(p, why)
			}
			return nil
		})
	}
	_ = g.Wait() // nothing fails
}

// check returns why a token that was good for an agent no longer is, as far as is known.
func (s *Server) check(ctx context.Context, token string, agentID int64) error {
	agent, err := s.access.Agent(ctx, token)
	switch {
	case err != nil && refused(err):
		return refusal(err)
	case err == nil && agent.AgentID != agentID:
		return status.Error(codes.Unavailable, "the token is another agent's now: connect again")
	default: // or RoR cannot be asked: the agent was let in, and stays
		return nil
	}
}

// refused tells whether an error of Access is a refusal rather than trouble that may pass.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound:
		return true
	default:
		return false
	}
}

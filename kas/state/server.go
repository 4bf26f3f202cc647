package state

import (
	"cmp"
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/retry"
)

// Config of a Server. What is zero is as DefaultConfig has it.
type Config struct {
	// Clock. Nil: the real one.
	Clock clock.WithTicker
	// Timeout of a Get, List or ListFleet whose caller sets no deadline.
	Timeout time.Duration
	// Linger is how long a shared watch goes on after its last watcher has left.
	Linger time.Duration
	// Patience is how long watchers wait for an agent that was lost before they are told.
	Patience time.Duration
	// Reopen says when a watch that broke is opened again.
	Reopen retry.Policy
	// FleetParallel is how many agents one ListFleet asks at a time.
	FleetParallel int
	// FleetWait is how long each agent may take to begin its answer to a ListFleet, so that
	// silent ones do not take the time of those that have not been asked yet.
	FleetWait time.Duration
	// Watchers is how many may watch at a time.
	Watchers int
	// WatchBytes and TotalBytes bound what is kept for one shared watch and for all.
	WatchBytes, TotalBytes int64
	// LogMessages and LogBytes bound the log of a shared watch.
	LogMessages int
	LogBytes    int64
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Clock:         clock.RealClock{},
		Timeout:       30 * time.Second,
		Linger:        5 * time.Second,
		Patience:      time.Minute,
		Reopen:        retry.Policy{Initial: 100 * time.Millisecond, Max: 5 * time.Second, ResetAfter: 10 * time.Second},
		FleetParallel: 50,
		FleetWait:     10 * time.Second,
		Watchers:      20_000,
		WatchBytes:    64 << 20,
		TotalBytes:    256 << 20,
		LogMessages:   4096,
		LogBytes:      4 << 20,
	}
}

// Tunnel reaches agents. Its connections may be used before their agents are connected,
// and take *grpctool.Raw in the place of messages. They return errors with a gRPC status.
type Tunnel interface {
	Conn(agentID int64) grpc.ClientConnInterface
}

// Agents knows which agents are connected.
type Agents interface {
	// Connected lists the connections of these agents (none given: of all), to whichever
	// kas, ordered by agent, and only those that are configured in projectID unless it is nil.
	Connected(ctx context.Context, agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent
}

// Collaborators are whom a Server works with.
type Collaborators struct {
	Tunnel     Tunnel
	Agents     Agents
	Registerer prometheus.Registerer
	Log        *zap.Logger
}

// Server answers RoR's questions about clusters.
type Server struct {
	config  Config
	tunnel  Tunnel
	agents  Agents
	log     *zap.Logger
	metrics *metrics
	table   *table
}

// NewServer returns a server. Watches need Run.
func NewServer(config Config, with Collaborators) *Server {
	config = config.withDefaults()
	m := newMetrics(with.Registerer)
	s := &Server{config: config, tunnel: with.Tunnel, agents: with.Agents, log: with.Log, metrics: m}
	s.table = newTable(config, m)
	return s
}

// Register adds railsrpc.ClusterState to a server, whose codec must be grpctool.RawCodec.
func (s *Server) Register(server grpc.ServiceRegistrar) {
	server.RegisterService(&serviceDesc, s)
}

// Run reads the shared watches until ctx ends. Then they end with UNAVAILABLE, and it
// returns nil.
func (s *Server) Run(ctx context.Context) error {
	return s.table.run(ctx, s.read)
}

// bounded gives ctx a deadline unless it has one.
func (s *Server) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.config.Timeout)
}

func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.Clock == nil {
		c.Clock = d.Clock
	}
	if c.Reopen == (retry.Policy{}) {
		c.Reopen = d.Reopen
	}
	c.Timeout = cmp.Or(c.Timeout, d.Timeout)
	c.Linger = cmp.Or(c.Linger, d.Linger)
	c.Patience = cmp.Or(c.Patience, d.Patience)
	c.FleetParallel = cmp.Or(c.FleetParallel, d.FleetParallel)
	c.FleetWait = cmp.Or(c.FleetWait, d.FleetWait)
	c.Watchers = cmp.Or(c.Watchers, d.Watchers)
	c.WatchBytes = cmp.Or(c.WatchBytes, d.WatchBytes)
	c.TotalBytes = cmp.Or(c.TotalBytes, d.TotalBytes)
	c.LogMessages = cmp.Or(c.LogMessages, d.LogMessages)
	c.LogBytes = cmp.Or(c.LogBytes, d.LogBytes)
	return c
}

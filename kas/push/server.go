package push

import (
	"cmp"
	"context"
	"os/exec"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/manifests"
	"github.com/kas-agentk/kas/manifests/render"
)

// Config is how object sets are made and sent.
type Config struct {
	// PollPeriod is how often a manifest project's ref is polled.
	PollPeriod time.Duration
	// RecheckPeriod is how often an open stream's agent and its access to the
	// project are checked again.
	RecheckPeriod time.Duration
	// Limits of one commit.
	Limits manifests.Limits
	// RenderTimeout is how long one kustomization or chart may take to render. Zero:
	// DefaultRenderTimeout.
	RenderTimeout time.Duration
	// RenderCommand starts a process that renders: see render.Config. Nil: rendering is
	// done in this process.
	RenderCommand func(context.Context) *exec.Cmd
	// Tracing makes spans of what is done for a commit. Nil: nothing does.
	Tracing *tracing.Tracing
	// Clock. Nil: the real one.
	Clock clock.WithTicker
}

const (
	// DefaultRenderTimeout leaves large charts time on a busy machine.
	DefaultRenderTimeout = 30 * time.Second
	// parallelRenders keeps rendering from taking the whole machine.
	parallelRenders = 4
	// renderMemory of one rendering, in bytes.
	renderMemory = 1 << 30
)

// DefaultConfig is GitLab's where GitLab has it.
func DefaultConfig() Config {
	return Config{
		PollPeriod:    20 * time.Second,
		RecheckPeriod: 5 * time.Minute,
		Limits:        manifests.DefaultLimits(),
	}
}

// Collaborators are whom a Server works with.
type Collaborators struct {
	Access     Access
	Source     Source
	Status     Status
	Registerer prometheus.Registerer
	Log        *zap.Logger
}

// Server implements agentrpc.SyncServer.
type Server struct {
	agentrpc.UnimplementedSyncServer

	config  Config
	access  Access
	status  Status
	clock   clock.WithTicker
	log     *zap.Logger
	feeds   *feeds
	metrics *metrics
	book    book
	// comparisons bounds those of all streams together.
	comparisons room

	mu       sync.Mutex
	draining chan struct{}
	drained  bool
	streams  sync.WaitGroup
}

// errDraining ends streams when kas stops: the agent connects again, elsewhere or
// later.
var errDraining = status.Error(codes.Unavailable, "kas is shutting down")

// NewServer returns a server.
func NewServer(config Config, with Collaborators) *Server {
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	m := newMetrics(with.Registerer)
	return &Server{
		config:   config,
		access:   with.Access,
		status:   with.Status,
		clock:    config.Clock,
		log:      with.Log,
		metrics:  m,
		draining: make(chan struct{}),

		comparisons: newRoom(maxComparisons, maxWaiting),
		feeds: &feeds{
			source:  with.Source,
			period:  config.PollPeriod,
			limits:  config.Limits,
			clock:   config.Clock,
			metrics: m,
			log:     with.Log,
			tracing: config.Tracing,
			renderer: render.New(render.Config{
				Limits: config.Limits, Timeout: cmp.Or(config.RenderTimeout, DefaultRenderTimeout), Parallel: parallelRenders,
				Command: config.RenderCommand, Memory: renderMemory,
			}),
			open: make(map[feedKey]*feed),
		},
	}
}

// Run waits for ctx to end, then ends all streams with UNAVAILABLE, and returns nil
// when they have ended. A stream whose agent does not read ends only with its
// connection: stop the gRPC server without waiting for Run.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.drained = true
	close(s.draining)
	s.mu.Unlock()
	s.streams.Wait()
	return nil
}

// enter notes a stream, unless kas is shutting down.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained {
		return errDraining
	}
	s.streams.Add(1)
	return nil
}

// Connect implements agentrpc.SyncServer.
func (s *Server) Connect(rpc grpc.BidiStreamingServer[agentrpc.ConnectRequest, agentrpc.ConnectResponse]) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.streams.Done()
	st := newStream(s, rpc)
	if err := grpctool.Aside(st.authenticate); err != nil {
		return err
	}
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	return st.run(rpc.Context())
}

// refusal returns the status that ends a stream for an error of Access.
func refusal(err error) error {
	switch code := status.Code(err); code {
	case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound:
		return status.Error(code, grpctool.Words(err))
	default:
		return status.Errorf(codes.Unavailable, "ask who the agent is and what it may read: %s", grpctool.Words(err))
	}
}

// refused tells whether an error of Access is a refusal rather than trouble that
// may pass.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound:
		return true
	default:
		return false
	}
}

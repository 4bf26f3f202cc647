package tunnel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/tracing"
)

// errTwice is wrapped by what Run returns when a service was registered twice.
var errTwice = errors.New("registered twice")

// Config of a Server. Client, Meta and Log are needed.
type Config struct {
	Client agentrpc.ReverseTunnelClient
	// Meta is what each stream says of this process.
	Meta func(context.Context) *agentrpc.AgentMeta
	Log  *zap.Logger
	// Metrics; nil: nobody looks.
	Metrics *Metrics
	// Tracing of RPCs that kas traces; nil: none is.
	Tracing *tracing.Tracing
	// Ended is told why a stream failed, each time; nil: nobody wants to know.
	Ended func(error)
	// Clock; nil: the real one.
	Clock clock.Clock

	// MaxIdle bounds the idle streams that kas may want; zero: 1,000.
	MaxIdle int
	// MaxStreams bounds all streams; zero: 4,000.
	MaxStreams int
	// LargeRate is how much of large answers goes out while small RPCs come, in bytes a
	// second, of all together; zero: 125 MB, what a link of a gigabit carries; negative: as
	// much as the connection takes.
	LargeRate int
	// Lost is how long to wait before streams are opened again when kas, or the
	// connection, went away. Refused: when kas did not want one. Old: when kas has no
	// tunnel, which takes another kas to mend. Zero: defaults.
	Lost, Refused, Old retry.Policy
}

func (c *Config) setDefaults() {
	if c.Metrics == nil {
		c.Metrics = newMetrics()
	}
	if c.Ended == nil {
		c.Ended = func(error) {}
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.MaxIdle == 0 {
		c.MaxIdle = 1000
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = 4000
	}
	if c.LargeRate == 0 {
		c.LargeRate = 125e6
	}
	if c.Lost == (retry.Policy{}) {
		c.Lost = retry.Policy{Initial: 200 * time.Millisecond, Max: 2 * time.Second, ResetAfter: 5 * time.Second}
	}
	if c.Refused == (retry.Policy{}) {
		c.Refused = retry.Policy{Initial: 2 * time.Second, Max: 20 * time.Second, ResetAfter: time.Minute}
	}
	if c.Old == (retry.Policy{}) {
		c.Old = retry.Policy{Initial: time.Minute, Max: 5 * time.Minute}
	}
}

// method answers one kind of RPC: unary or stream is set.
type method struct {
	service any
	unary   grpc.MethodHandler
	stream  grpc.StreamHandler
	// label of its metrics, and its counter of what went well.
	label string
	ok    prometheus.Counter
	// livesLong: its RPCs are no spans.
	livesLong bool
}

// Server answers RPCs that kas makes over the tunnel.
type Server struct {
	cfg Config
	// services by name, sorted, and their methods by full name, "/package.Service/Method".
	// They do not change while Run runs.
	services []string
	methods  map[string]*method
	// unknown stands in the metrics for methods that do not exist.
	unknown *method
	misuse  error

	pool  *pool
	pacer *pacer
	// goroutines are those of streams.
	goroutines sync.WaitGroup
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// NewServer returns a server without services that has opened nothing yet.
func NewServer(cfg Config) *Server {
	cfg.setDefaults()
	s := &Server{
		cfg:     cfg,
		methods: map[string]*method{},
		pool:    newPool(cfg.MaxIdle, cfg.MaxStreams, cfg.Metrics),
		pacer:   newPacer(cfg.Clock, cfg.LargeRate, cfg.Metrics.held),
	}
	s.unknown = s.counted(&method{}, "unknown")
	return s
}

// RegisterService implements grpc.ServiceRegistrar, so that the generated
// RegisterXServer functions work. It is not called any more when Run has been.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if slices.Contains(s.services, desc.ServiceName) {
		s.misuse = fmt.Errorf("service %s: %w", desc.ServiceName, errTwice)
		return
	}
	s.services = append(s.services, desc.ServiceName)
	slices.Sort(s.services)
	for _, m := range desc.Methods {
		name := "/" + desc.ServiceName + "/" + m.MethodName
		s.methods[name] = s.counted(&method{service: impl, unary: m.Handler}, name)
	}
	for _, m := range desc.Streams {
		name := "/" + desc.ServiceName + "/" + m.StreamName
		s.methods[name] = s.counted(&method{service: impl, stream: m.Handler}, name)
	}
}

func (s *Server) counted(m *method, label string) *method {
	m.livesLong = m.service == nil || tracing.LivesLong(label)
	m.label, m.ok = label, s.cfg.Metrics.rpcs.WithLabelValues(label, codes.OK.String())
	return m
}

// count counts an RPC that has ended.
func (s *Server) count(m *method, code codes.Code) {
	if code == codes.OK {
		m.ok.Inc()
		return
	}
	s.cfg.Metrics.rpcs.WithLabelValues(m.label, code.String()).Inc()
}

// Run keeps streams open until ctx ends, and returns nil when they and all handlers have
// ended. Without services it opens nothing and returns at once. It must be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.misuse != nil {
		return fmt.Errorf("tunnel: %w", s.misuse)
	}
	if len(s.services) == 0 {
		return nil
	}
	defer s.goroutines.Wait()
	s.keepOpen(ctx)
	return nil
}

package agentk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/internal/version"
)

// Config of an Agent.
type Config struct {
	// KASAddress is grpc[s]://HOST:PORT or ws[s]://HOST[:PORT]/PATH.
	KASAddress string
	// CACertFile, unless empty, holds PEM certificates to trust beside the system's.
	CACertFile string
	// TokenFile holds the agent's token. It is read for every stream.
	TokenFile string
	// PodName and PodNamespace are told to kas; they may be empty.
	PodName, PodNamespace string
	// KubernetesVersion asks for the API server's version; empty: not known.
	KubernetesVersion func(context.Context) string
	// Observability, unless nil, is where metrics and probes are served. Run closes it.
	Observability net.Listener
	// StateDir, unless empty, is a directory of this process's own, in which it keeps
	// what kas said last, to go on with if it is started while kas is away.
	StateDir string
	// Controls keeps what people decide about projects; nil: it is forgotten when the
	// process ends.
	Controls ControlStore
	// Services each register what this agent answers over the reverse tunnel, as in
	// func(r grpc.ServiceRegistrar) { agentrpc.RegisterClusterQueryServer(r, server) }.
	// Every replica answers, leader or not. None: the tunnel is not opened.
	Services []func(grpc.ServiceRegistrar)
	// Examiner, unless nil, has the agent answer Diagnostics as well.
	Examiner Examiner
	// ApplyLogging, unless nil, has the log follow the configuration.
	ApplyLogging func(*agentcfg.Observability)
	// ApplyClusterState, unless nil, has what is kept of the cluster follow the
	// configuration.
	ApplyClusterState func(*agentcfg.ClusterState)
	// ApplyKubernetesAPI, unless nil, has what people reach through the Kubernetes API
	// follow the configuration.
	ApplyKubernetesAPI func(*agentcfg.KubernetesApi)

	Registry *prometheus.Registry
	// Tracing of what kas traces; nil: nothing is.
	Tracing *tracing.Tracing
	Log     *zap.Logger
	// Clock; nil: the real one.
	Clock clock.WithTicker
	// reopen says how long to wait between streams; nil: defaults.
	reopen *reopenPolicies
}

func (c *Config) token() (string, error) { return readToken(c.TokenFile) }

// apply has what is not about projects follow the configuration.
func (c *Config) apply(file *agentcfg.ConfigurationFile) {
	c.ApplyLogging(file.GetObservability())
	c.ApplyClusterState(file.GetClusterState())
	c.ApplyKubernetesAPI(file.GetKubernetesApi())
	if c.Examiner != nil {
		c.Examiner.Configure(file)
	}
}

// Agent follows kas.
type Agent struct {
	cfg     Config
	engine  Engine
	elector Elector
	metrics *metrics
	conn    *grpc.ClientConn
	tunnel  *tunnel.Server
	link    *link
	configs desired.Slot[*configuration]
	// store is nil without a state directory.
	store *desired.Store
	// instanceID tells this process from others of the same agent.
	instanceID int64
}

// New returns an agent that has not dialled yet. Run must be called, to free what it
// holds.
func New(cfg Config, engine Engine, elector Elector) (*Agent, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.reopen == nil {
		policies := defaultReopenPolicies()
		cfg.reopen = &policies
	}
	if cfg.ApplyLogging == nil {
		cfg.ApplyLogging = func(*agentcfg.Observability) {}
	}
	if cfg.ApplyClusterState == nil {
		cfg.ApplyClusterState = func(*agentcfg.ClusterState) {}
	}
	if cfg.ApplyKubernetesAPI == nil {
		cfg.ApplyKubernetesAPI = func(*agentcfg.KubernetesApi) {}
	}
	if cfg.KubernetesVersion == nil {
		cfg.KubernetesVersion = func(context.Context) string { return "" }
	}
	metrics, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	tunnelMetrics, err := tunnel.NewMetrics(cfg.Registry)
	if err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	a := &Agent{
		cfg:        cfg,
		engine:     engine,
		elector:    elector,
		metrics:    metrics,
		link:       &link{metrics: metrics, clock: cfg.Clock},
		instanceID: int64(binary.BigEndian.Uint64(id[:]) >> 1),
	}
	if cfg.StateDir != "" {
		if a.store, err = openStore(cfg.StateDir, &a.cfg, metrics); err != nil {
			return nil, err
		}
	}
	if a.conn, err = newConn(&a.cfg); err != nil {
		return nil, err
	}
	a.tunnel = a.newTunnel(tunnelMetrics)
	return a, nil
}

// Run works until ctx ends, and returns nil then.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() {
		if closeErr := a.conn.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("close the connection to kas: %w", closeErr)
		}
	}()
	if a.store != nil {
		stop := a.keep(ctx)
		defer stop()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		a.noticeAbsence(ctx)
		return nil
	})
	if a.store != nil {
		g.Go(func() error {
			a.restore(ctx)
			return nil
		})
	}
	if a.cfg.Observability != nil {
		g.Go(func() error {
			srv := &admin.Server{Gatherer: a.cfg.Registry, Checks: []admin.Check{
				{Name: "kas", Ready: a.link.connectedCheck},
				{Name: "configuration", Ready: a.link.configuredCheck},
			}}
			return srv.Run(ctx, a.cfg.Observability)
		})
	}
	g.Go(func() error {
		w := &watcher{
			log:      a.cfg.Log,
			client:   agentrpc.NewAgentConfigurationClient(a.conn),
			meta:     a.meta,
			token:    a.cfg.token,
			link:     a.link,
			apply:    a.cfg.apply,
			configs:  &a.configs,
			keep:     a.keepConfiguration,
			policies: *a.cfg.reopen,
		}
		w.Run(ctx)
		return nil
	})
	g.Go(func() error { return a.tunnel.Run(ctx) })
	g.Go(func() error { return a.lead(ctx) })
	return g.Wait()
}

func (a *Agent) meta(ctx context.Context) *agentrpc.AgentMeta {
	return &agentrpc.AgentMeta{
		Version:           version.Version,
		PodNamespace:      a.cfg.PodNamespace,
		PodName:           a.cfg.PodName,
		InstanceId:        a.instanceID,
		KubernetesVersion: a.cfg.KubernetesVersion(ctx),
	}
}

// lead takes part in the election of the agent that kas says this is, until ctx ends.
func (a *Agent) lead(ctx context.Context) error {
	for ctx.Err() == nil {
		cfg, filled, newer := a.configs.Get()
		if !filled {
			select {
			case <-newer:
			case <-ctx.Done():
			}
			continue
		}
		if err := a.leadAs(ctx, cfg.agentID); err != nil {
			return err
		}
	}
	return nil
}

// errOtherAgent ends a term whose agent this no longer is.
var errOtherAgent = errors.New("the token is now another agent's")

// leadAs leads the agent until ctx ends or the token file makes this another agent.
func (a *Agent) leadAs(ctx context.Context, agentID int64) error {
	wants := newWants(a.cfg.Clock)
	m := &manager{log: a.cfg.Log, agentID: agentID, configs: &a.configs, work: a.worker(wants), configure: wants.configure}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.awaitOther(ctx, agentID) })
	g.Go(func() error {
		return a.elector.Lead(ctx, agentID, func(ctx context.Context, term int64) {
			a.metrics.leader.Set(1)
			defer a.metrics.leader.Set(0)
			a.enter(agentID, term)
			a.engine.Forget()
			wants.reset()
			m.Run(ctx)
		})
	})
	if err := g.Wait(); err != nil && !errors.Is(err, errOtherAgent) {
		return err
	}
	return nil
}

// awaitOther returns errOtherAgent when the configuration is another agent's, and
// nil when ctx ends.
func (a *Agent) awaitOther(ctx context.Context, agentID int64) error {
	for {
		cfg, _, newer := a.configs.Get()
		if cfg.agentID != agentID {
			return errOtherAgent
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return nil
		}
	}
}

// worker returns what the manager runs for each project.
func (a *Agent) worker(wants *wants) func(context.Context, int64, *agentcfg.ManifestProject) {
	shared := workerConfig{
		log:      a.cfg.Log,
		client:   agentrpc.NewSyncClient(a.conn),
		engine:   a.engine,
		clock:    a.cfg.Clock,
		token:    a.cfg.token,
		link:     a.link,
		metrics:  a.metrics,
		claims:   newClaims(),
		wants:    wants,
		policies: *a.cfg.reopen,
		limits:   desired.DefaultLimits(),
		store:    a.store,
		controls: a.cfg.Controls,
		tracing:  a.cfg.Tracing,
	}
	return func(ctx context.Context, agentID int64, project *agentcfg.ManifestProject) {
		newWorker(shared, agentID, project).Run(ctx)
	}
}

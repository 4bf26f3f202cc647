package kas

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/reflection"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/callmetrics"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/internal/tunnelwire"
	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/internal/wstransport"
	"github.com/kas-agentk/kas/kas/agents"
	"github.com/kas-agentk/kas/kas/diagnose"
	"github.com/kas-agentk/kas/kas/gitaly"
	"github.com/kas-agentk/kas/kas/proxy"
	"github.com/kas-agentk/kas/kas/push"
	"github.com/kas-agentk/kas/kas/rails"
	"github.com/kas-agentk/kas/kas/state"
	"github.com/kas-agentk/kas/kas/status"
	"github.com/kas-agentk/kas/kas/tunnel"
	"github.com/kas-agentk/kas/manifests"
)

// house is all rooms, wired, and not running yet.
type house struct {
	metrics  *prometheus.Registry
	tracing  *tracing.Tracing
	rails    *rails.Client
	gitaly   *gitaly.Pool
	status   *status.Store
	push     *push.Server
	tunnel   *tunnel.Server
	state    *state.Server
	proxy    *proxy.Server // nil: none is configured
	diagnose *diagnose.Server
	health   *health.Server
	drain    *drain
	draining atomic.Bool
	many     *many // nil: this kas is alone

	agentServer, apiServer *grpc.Server
	privateServer          *grpc.Server // nil: this kas is alone
	observabilityTLS       *tls.Config
	// bound limits how many agents connect at a time.
	bound func(net.Listener) net.Listener
	// webSocket makes agents' WebSockets out of a listener; nil: they come by gRPC.
	webSocket func(net.Listener) *wstransport.Listener
}

// files is everything that kas/gitaly knows of repositories.
type files struct {
	*gitaly.Refs
	*gitaly.Content
}

// build makes the house, whose private API is to be served by a listener; nil: there is none.
func build(ctx context.Context, options Options, private net.Listener) (made *house, err error) {
	cfg, log := options.Configuration, options.Log
	h := &house{metrics: admin.NewRegistry(), health: health.NewServer(), drain: newDrain()}
	if h.tracing, err = newTracing(ctx, options, h.metrics); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.endTracing(ctx)
		}
	}()
	if h.rails, err = newRails(cfg.GetGitlab(), h.tracing, h.metrics); err != nil {
		return nil, err
	}
	if h.many, err = newMany(cfg, private, h.tracing, log, h.metrics); err != nil {
		return nil, err
	}
	if h.status, err = status.New(h.many.statuses(), tracedPoster(h.rails, h.tracing), log, h.metrics); err != nil {
		return nil, fmt.Errorf("set up status: %w", err)
	}
	access, err := newAccess(cfg.GetAgent(), h.rails, log, h.metrics)
	if err != nil {
		return nil, err
	}
	registry, err := agents.NewRegistry(clock.RealClock{}, h.many.noted(), h.metrics)
	if err != nil {
		return nil, fmt.Errorf("set up the registry of agents: %w", err)
	}
	if h.gitaly, err = newGitaly(cfg.GetGitaly(), h.tracing, h.metrics); err != nil {
		return nil, err
	}
	source := files{
		Refs:    gitaly.NewRefs(gitaly.RefsConfig{Replicas: h.many.pollers(), Tracing: h.tracing}, h.gitaly, h.metrics),
		Content: gitaly.NewContent(gitaly.ContentConfig{CacheSize: int64(cfg.GetAgent().GetGitops().GetBlobCacheSize())}, h.gitaly, h.metrics),
	}
	pushing := pushConfig(cfg.GetAgent())
	pushing.RenderCommand, pushing.Tracing = options.Renderer, h.tracing
	h.push = push.NewServer(pushing, push.Collaborators{
		Access: access, Source: source, Status: h.status, Registerer: h.metrics, Log: log,
	})
	h.tunnel, err = tunnel.NewServer(tunnel.Config{RecheckPeriod: pushing.RecheckPeriod}, tunnel.Collaborators{
		Access: access, Registerer: h.metrics, Replicas: h.many.others(), Changed: h.many.noted(),
	})
	if err != nil {
		return nil, fmt.Errorf("set up the tunnel: %w", err)
	}
	connected, traced := h.many.everywhere(registry, h.tunnel), tracedAgents(h.tunnel, h.tracing)
	h.state = state.NewServer(state.Config{}, state.Collaborators{
		Tunnel: traced, Agents: connected, Registerer: h.metrics, Log: log,
	})
	if h.proxy, err = newKubernetesAPI(cfg.GetAgent().GetKubernetesApi(), h.many, proxy.Collaborators{
		RoR: h.rails, Agents: traced, Presence: newWhereabouts(clock.RealClock{}, h.many, registry, h.tunnel), Registerer: h.metrics, Log: log,
	}, h.tracing); err != nil {
		return nil, err
	}
	h.diagnose = newDiagnostics(h.many, h.tunnel, registry, h.status)
	configurations := agents.NewServer(agents.ServerConfig{
		PollPeriod:  cfg.GetAgent().GetConfiguration().GetPollPeriod().AsDuration(),
		MaxFileSize: int64(cfg.GetAgent().GetConfiguration().GetMaxConfigurationFileSize()),
		Clock:       clock.RealClock{},
	}, agents.Collaborators{
		Access: access, Registry: registry, Files: source, Reporter: h.rails, Status: h.status, Log: log,
	})
	if err := h.buildServers(cfg, log, configurations, connected, source, access); err != nil {
		return nil, err
	}
	return h, nil
}

// buildServers makes the gRPC servers for agents and for RoR.
func (h *house) buildServers(cfg *kascfg.ConfigurationFile, log *zap.Logger, configurations *agents.Server, connected rails.Agents, source files, access *agents.Access) error {
	observer, err := newObserver(log, h.metrics)
	if err != nil {
		return err
	}
	agentTLS, err := serverTLS("agent.listen", cfg.GetAgent().GetListen(), log)
	if err != nil {
		return err
	}
	if h.bound, err = bound(cfg.GetAgent().GetListen().GetConnectionRateLimit(), h.metrics); err != nil {
		return err
	}
	if cfg.GetAgent().GetListen().GetWebsocket() {
		h.webSocket, agentTLS = webSocket(agentTLS, log), nil // TLS is around the WebSocket, not in it
	}
	apiTLS, err := serverTLS("api.listen", cfg.GetApi().GetListen(), log)
	if err != nil {
		return err
	}
	if h.observabilityTLS, err = serverTLS("observability.listen", cfg.GetObservability().GetListen(), log); err != nil {
		return err
	}
	secret, err := jwtauth.LoadSecret(cfg.GetApi().GetListen().GetAuthenticationSecretFile())
	if err != nil {
		return wrong("api.listen.authentication_secret_file", "%w", err)
	}
	auth := rails.NewAuth(secret, clock.RealClock{})

	streams := &agentStreams{
		observer: observer, limit: newTokenLimit(cfg.GetAgent().GetTokenRateLimit(), h.many), drain: h.drain,
		aging: aging{cfg.GetAgent().GetListen().GetMaxConnectionAge().AsDuration()},
	}
	h.agentServer = newServer(serverConfig{
		tls:              agentTLS,
		maxConnectionAge: cfg.GetAgent().GetListen().GetMaxConnectionAge().AsDuration(),
		unary:            []grpc.UnaryServerInterceptor{observer.unary, streams.limit.unary},
		stream:           []grpc.StreamServerInterceptor{streams.interceptor()},
		health:           h.health,
		codec:            tunnelwire.Codec(),
	})
	agentrpc.RegisterAgentConfigurationServer(h.agentServer, configurations)
	agentrpc.RegisterSyncServer(h.agentServer, h.push)
	agentrpc.RegisterReverseTunnelServer(h.agentServer, h.tunnel)

	h.apiServer = newServer(serverConfig{
		tls:              apiTLS,
		maxConnectionAge: cfg.GetApi().GetListen().GetMaxConnectionAge().AsDuration(),
		unary:            []grpc.UnaryServerInterceptor{observer.unary, auth.Unary},
		stream:           []grpc.StreamServerInterceptor{observer.stream, h.drain.stream, auth.Stream},
		health:           h.health,
		codec:            grpctool.RawCodec(), // agents' answers go on as they came
		options:          append(h.tracing.ServerOptions(), grpc.NumStreamWorkers(workers)),
	})
	h.state.Register(h.apiServer)
	rails.RegisterServices(h.apiServer, connected, h.status, h.many.controls(h.push))
	notifications := rails.NewNotifications(source.Refs, access, h.many.bus())
	notifications.Register(h.apiServer)
	railsrpc.RegisterAgentDiagnosticsServer(h.apiServer, h.diagnose)
	h.many.hear(h.status, source.Refs, notifications)
	reflection.Register(h.apiServer)
	if h.many != nil {
		h.privateServer = h.many.server(h.tunnel, observer, h.drain, log)
		rails.RegisterServices(h.privateServer, connected, h.status, h.push) // of this kas alone
		railsrpc.RegisterAgentDiagnosticsServer(h.privateServer, h.diagnose.Local())
	}
	return nil
}

// close lets go of connections once nothing runs any more.
func (h *house) close(ctx context.Context, log *zap.Logger) {
	h.apiServer.Stop() // a server that never served has its workers all the same
	h.rails.Close()
	if err := h.gitaly.Close(); err != nil {
		log.Warn("Connections to Gitaly did not close", zap.Error(err))
	}
	h.endTracing(ctx)
}

func newRails(cfg *kascfg.Gitlab, traced *tracing.Tracing, registerer prometheus.Registerer) (*rails.Client, error) {
	secret, err := jwtauth.LoadSecret(cfg.GetAuthenticationSecretFile())
	if err != nil {
		return nil, wrong("gitlab.authentication_secret_file", "%w", err)
	}
	roots, err := rootCAs("gitlab.ca_certificate_file", cfg.GetCaCertificateFile())
	if err != nil {
		return nil, err
	}
	client, err := rails.NewClient(rails.ClientConfig{
		Address:   cfg.GetAddress(),
		Secret:    secret,
		RootCAs:   roots,
		Limit:     rateOf(cfg.GetApiRateLimit()),
		Burst:     int(cfg.GetApiRateLimit().GetBucketSize()),
		Transport: traced.Transport,
		Clock:     clock.RealClock{},
	}, registerer)
	if err != nil {
		return nil, wrong("gitlab.address", "%w", err)
	}
	return client, nil
}

func newGitaly(cfg *kascfg.Gitaly, traced *tracing.Tracing, registerer prometheus.Registerer) (*gitaly.Pool, error) {
	measured, err := callmetrics.DialOptions(registerer, "kas_gitaly_call_seconds", "How long calls of Gitaly took, by method and gRPC code.")
	if err != nil {
		return nil, fmt.Errorf("set up Gitaly: %w", err)
	}
	return gitaly.NewPool(gitaly.PoolConfig{
		Global:    rateLimit(cfg.GetGlobalApiRateLimit()),
		PerServer: rateLimit(cfg.GetPerServerApiRateLimit()),
		UserAgent: "kas/" + version.Version,
		Options:   append(measured, traced.DialOptions()...),
	}, registerer), nil
}

func newAccess(cfg *kascfg.Agent, client *rails.Client, log *zap.Logger, registerer prometheus.Registerer) (*agents.Access, error) {
	access, err := agents.NewAccess(agents.AccessConfig{
		InfoTTL:         cfg.GetInfoCacheTtl().AsDuration(),
		InfoErrorTTL:    cfg.GetInfoCacheErrorTtl().AsDuration(),
		ProjectTTL:      cfg.GetGitops().GetProjectInfoCacheTtl().AsDuration(),
		ProjectErrorTTL: cfg.GetGitops().GetProjectInfoCacheErrorTtl().AsDuration(),
		Clock:           clock.RealClock{},
	}, client, log, registerer)
	if err != nil {
		return nil, fmt.Errorf("set up access: %w", err)
	}
	return access, nil
}

// maxRecheck bounds how long after RoR's answer has expired an open stream goes on: a
// check that an answer in memory serves costs nothing.
const maxRecheck = 10 * time.Second

func pushConfig(cfg *kascfg.Agent) push.Config {
	ttl := min(cfg.GetInfoCacheTtl().AsDuration(), cfg.GetGitops().GetProjectInfoCacheTtl().AsDuration())
	limits := manifests.DefaultLimits()
	limits.MaxFileSize = int64(cfg.GetGitops().GetMaxManifestFileSize())
	limits.MaxTotalSize = int64(cfg.GetGitops().GetMaxTotalManifestFileSize())
	limits.MaxFiles = int(cfg.GetGitops().GetMaxNumberOfFiles())
	return push.Config{
		PollPeriod:    cfg.GetGitops().GetPollPeriod().AsDuration(),
		RecheckPeriod: min(max(ttl/10, time.Second), maxRecheck),
		Limits:        limits,
	}
}

// rateOf is how often a bucket lets somebody through.
func rateOf(b *kascfg.TokenBucket) rate.Limit {
	if b.GetRefillRatePerSecond() == 0 {
		return rate.Inf
	}
	return rate.Limit(b.GetRefillRatePerSecond())
}

func rateLimit(b *kascfg.TokenBucket) gitaly.RateLimit {
	return gitaly.RateLimit{PerSecond: b.GetRefillRatePerSecond(), Burst: int(b.GetBucketSize())}
}

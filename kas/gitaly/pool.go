package gitaly

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	gitalyauth "gitlab.com/gitlab-org/gitaly/v14/auth"
	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
)

const (
	// maxMessageSize is the largest answer accepted of Gitaly, in bytes. It cuts
	// its answers far below.
	maxMessageSize = 16 << 20
	// maxReconnectDelay bounds how long a Gitaly that is back goes unnoticed.
	maxReconnectDelay = 2 * time.Second
	// minPingInterval is what Gitaly tolerates at most.
	minPingInterval = 30 * time.Second

	featurePrefix = "gitaly-feature-"
)

// RateLimit is a token bucket. Zero: no limit.
type RateLimit struct {
	PerSecond float64
	Burst     int
}

func (l RateLimit) limiter() *rate.Limiter {
	if l.PerSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(l.PerSecond), max(l.Burst, 1))
}

// PoolConfig is how Gitaly servers are treated.
type PoolConfig struct {
	// Global limits the calls to all servers together, PerServer those to each.
	Global, PerServer RateLimit
	// UserAgent names this program to Gitaly.
	UserAgent string
	// Options are added to every connection's.
	Options []grpc.DialOption
}

// Pool holds one connection for each Gitaly server that was ever asked. It is safe
// for concurrent use.
type Pool struct {
	config PoolConfig
	global *rate.Limiter
	calls  *prometheus.CounterVec

	mu      sync.Mutex
	servers map[string]*server // by address
	closed  bool
}

// server is a Gitaly server.
type server struct {
	conn    *grpc.ClientConn
	limiter *rate.Limiter
}

// NewPool returns a pool. Close it when no call is under way any more.
func NewPool(config PoolConfig, registerer prometheus.Registerer) *Pool {
	return &Pool{
		config:  config,
		global:  config.Global.limiter(),
		servers: make(map[string]*server),
		calls: promauto.With(registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "kas_gitaly_calls_total",
			Help: "Calls of Gitaly, by method.",
		}, []string{"method"}),
	}
}

// Close ends all connections.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for address, s := range p.servers {
		if err := s.conn.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close connection to Gitaly at %s: %w", address, err))
		}
	}
	p.servers = nil
	return errors.Join(errs...)
}

// session returns a connection on which every call is authenticated as info asks
// for, and waits for the rate limits.
func (p *Pool) session(info gitlabapi.GitalyInfo) (*session, error) {
	s, err := p.server(info.Address)
	if err != nil {
		return nil, &gitrepo.UnavailableError{Doing: "connect", Err: err}
	}
	return &session{pool: p, server: s, info: info}, nil
}

func (p *Pool) server(address string) (*server, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("shutting down")
	}
	if s, ok := p.servers[address]; ok {
		return s, nil
	}
	target, transport, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent(p.config.UserAgent),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: minPingInterval, Timeout: grpctool.PingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnectDelay},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	conn, err := grpc.NewClient(target, append(options, p.config.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	s := &server{conn: conn, limiter: p.config.PerServer.limiter()}
	p.servers[address] = s
	return s, nil
}

// parseAddress returns what gRPC needs for a Gitaly address.
func parseAddress(address string) (target string, transport credentials.TransportCredentials, err error) {
	scheme, rest, _ := strings.Cut(address, ":")
	host := strings.TrimPrefix(rest, "//")
	if host == "" {
		scheme = "" // nothing to connect to
	}
	switch scheme {
	case "tcp":
		return "dns:///" + host, insecure.NewCredentials(), nil
	case "tls":
		return "dns:///" + host, credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), nil
	case "unix":
		return address, insecure.NewCredentials(), nil
	default:
		return "", nil, fmt.Errorf("address %q of Gitaly, as RoR gave it, is none of tcp://host:port, tls://host:port and unix:path", address)
	}
}

// session implements grpc.ClientConnInterface.
type session struct {
	pool   *Pool
	server *server
	info   gitlabapi.GitalyInfo
}

// Invoke implements grpc.ClientConnInterface.
func (s *session) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, opts, err := s.prepare(ctx, method, opts)
	if err != nil {
		return err
	}
	return s.server.conn.Invoke(ctx, method, args, reply, opts...) //nolint:wrapcheck // the status is what callers look at
}

// NewStream implements grpc.ClientConnInterface.
func (s *session) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, opts, err := s.prepare(ctx, method, opts)
	if err != nil {
		return nil, err
	}
	return s.server.conn.NewStream(ctx, desc, method, opts...) //nolint:wrapcheck // the status is what callers look at
}

func (s *session) prepare(ctx context.Context, method string, opts []grpc.CallOption) (context.Context, []grpc.CallOption, error) {
	for _, l := range []*rate.Limiter{s.pool.global, s.server.limiter} {
		if err := l.Wait(ctx); err != nil {
			return ctx, opts, fmt.Errorf("wait for the rate limit: %w", err)
		}
	}
	s.pool.calls.WithLabelValues(method[strings.LastIndexByte(method, '/')+1:]).Inc()
	pairs := make([]string, 0, 2*len(s.info.Features))
	for name, value := range s.info.Features {
		if !strings.HasPrefix(name, featurePrefix) {
			name = featurePrefix + name
		}
		pairs = append(pairs, name, value)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, pairs...)
	if s.info.Token != "" {
		opts = append(opts, grpc.PerRPCCredentials(gitalyauth.RPCCredentialsV2(s.info.Token)))
	}
	return ctx, opts, nil
}

// toGitaly returns r as Gitaly's messages have it.
func toGitaly(r gitlabapi.GitalyRepository) *gitalypb.Repository {
	return &gitalypb.Repository{
		StorageName:   r.StorageName,
		RelativePath:  r.RelativePath,
		GlRepository:  r.GlRepository,
		GlProjectPath: r.GlProjectPath,
	}
}

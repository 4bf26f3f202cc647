package private

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

const (
	defaultPingPeriod  = 2 * time.Second
	defaultPingTimeout = 5 * time.Second
)

// ClientConfig is how replicas are called. What is zero has the default that is named.
type ClientConfig struct {
	// Secret that replicas share.
	Secret []byte
	// RootCAs to trust of replicas that are called by grpcs://. Nil: the system's.
	RootCAs *x509.CertPool
	// OnlyTLS refuses grpc://: who can make up URLs of replicas must not get tokens.
	OnlyTLS bool
	// PingPeriod is how often a replica is asked for a sign of life, 2 s; PingTimeout how
	// long that may take, and a new connection: 5 s.
	PingPeriod, PingTimeout time.Duration
	// IdleTimeout is how long a connection is kept that nobody uses: 1 min.
	IdleTimeout time.Duration
	// MaxConnections bounds how many there are: 512.
	MaxConnections int
	// Options are added to every connection's.
	Options []grpc.DialOption
	// Clock. Nil: the real one.
	Clock clock.WithTicker
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	c.PingPeriod = cmp.Or(c.PingPeriod, defaultPingPeriod)
	c.PingTimeout = cmp.Or(c.PingTimeout, defaultPingTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, time.Minute)
	c.MaxConnections = cmp.Or(c.MaxConnections, 512)
	return c
}

// Client calls other replicas. It is safe for concurrent use.
type Client struct {
	cfg     ClientConfig
	log     *zap.Logger
	metrics *metrics
	signer  *jwtauth.Signer

	mu       sync.Mutex
	ended    bool
	replicas map[kind]*replica
}

// NewClient returns a client. It pings, and lets go of connections, while Run runs.
func NewClient(cfg ClientConfig, log *zap.Logger, registerer prometheus.Registerer) (*Client, error) {
	cfg = cfg.withDefaults()
	m, err := newMetrics(registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of the private API: %w", err)
	}
	return &Client{
		cfg: cfg, log: log, metrics: m, replicas: make(map[kind]*replica),
		signer: jwtauth.NewSigner(cfg.Secret, jwtauth.IssuerKas, jwtauth.AudienceKas, cfg.Clock),
	}, nil
}

// Conn returns the replica at a URL, grpc://HOST:PORT or grpcs://HOST:PORT, as a connection,
// which is made when it is first used. Where it cannot be made its calls fail with
// UNAVAILABLE.
func (c *Client) Conn(url string) grpc.ClientConnInterface { return &conn{client: c, url: url} }

// kind of a connection: unary RPCs have one of their own, so that none waits behind the bulk
// of others.
type kind struct {
	url   string
	unary bool
}

// other is the other one to the same replica.
func (k kind) other() kind { return kind{k.url, !k.unary} }

// Run pings replicas and lets go of connections that nobody uses, until ctx ends. Then it
// closes all, and returns nil.
func (c *Client) Run(ctx context.Context) error {
	ticker := c.cfg.Clock.NewTicker(c.cfg.PingPeriod)
	defer ticker.Stop()
	var pings errgroup.Group
	for {
		select {
		case <-ctx.Done():
			c.end()
			return pings.Wait()
		case <-ticker.C():
			for _, one := range c.sweep() {
				pings.Go(func() error { c.ping(ctx, one); return nil })
			}
		}
	}
}

// end closes all connections.
func (c *Client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, one := range c.replicas {
		c.drop(one)
	}
}

// sweep lets go of connections that nobody uses, and returns those to be pinged.
func (c *Client) sweep() (due []*replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.replicas {
		switch {
		case one.calls == 0 && c.cfg.Clock.Since(one.used) >= c.cfg.IdleTimeout:
			c.drop(one)
		case !one.pinging:
			one.pinging = true
			due = append(due, one)
		}
	}
	return due
}

// drop closes a connection: its calls end. The lock is held: closing waits for none of them.
func (c *Client) drop(one *replica) {
	if c.replicas[one.kind] != one {
		return
	}
	delete(c.replicas, one.kind)
	c.metrics.connections.Dec()
	_ = one.conn.Close() // it says only that it was closed before
}

// enter counts a call to a replica, until leave is called.
func (c *Client) enter(k kind) (*replica, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, status.Error(codes.Unavailable, "kas is shutting down")
	}
	one := c.replicas[k]
	if one == nil {
		var err error
		if one, err = c.open(k); err != nil {
			return nil, err
		}
	}
	one.calls++
	one.used = c.cfg.Clock.Now()
	return one, nil
}

func (c *Client) leave(one *replica) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.calls--
	one.used = c.cfg.Clock.Now()
}

// open adds a connection. The lock is held.
func (c *Client) open(k kind) (*replica, error) {
	if len(c.replicas) >= c.cfg.MaxConnections && !c.makeRoom() {
		return nil, status.Errorf(codes.Unavailable, "kas has %d connections to other replicas, and uses them all", len(c.replicas))
	}
	conn, err := c.dial(k.url)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "call the kas at %s: %v", k.url, err)
	}
	one := &replica{kind: k, conn: conn}
	c.replicas[k] = one
	c.metrics.connections.Inc()
	return one, nil
}

// makeRoom drops the connection that was used longest ago, if there is one that nobody uses.
// The lock is held.
func (c *Client) makeRoom() bool {
	var oldest *replica
	for _, one := range c.replicas {
		if one.calls == 0 && (oldest == nil || one.used.Before(oldest.used)) {
			oldest = one
		}
	}
	if oldest == nil {
		return false
	}
	c.drop(oldest)
	return true
}

func (c *Client) dial(to string) (*grpc.ClientConn, error) {
	where, err := url.Parse(to)
	if err != nil {
		return nil, fmt.Errorf("its URL: %w", err)
	}
	transport := insecure.NewCredentials()
	switch where.Scheme {
	case "grpc":
		if c.cfg.OnlyTLS {
			return nil, fmt.Errorf("%q is plaintext, and this kas has a certificate: all replicas need one", to)
		}
	case "grpcs":
		transport = credentials.NewTLS(&tls.Config{RootCAs: c.cfg.RootCAs, MinVersion: tls.VersionTLS12})
	default:
		return nil, fmt.Errorf("the scheme of %q is neither grpc nor grpcs", to)
	}
	//nolint:wrapcheck // the caller says what was being done
	return grpc.NewClient("dns:///"+where.Host, append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: c.signer.Token, Plaintext: where.Scheme == "grpc"}),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(grpctool.RawCodec()), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage),
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: c.cfg.PingTimeout,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(2 * window),
		grpc.WithUserAgent("kas"),
	}, c.cfg.Options...)...)
}

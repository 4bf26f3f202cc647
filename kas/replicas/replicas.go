package replicas

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"
)

// ErrAway says that Redis cannot be used now. It is wrapped with the reason.
var ErrAway = errors.New("Redis is away")

// errNotYet is why Redis is away at first.
var errNotYet = errors.New("not connected yet")

// Config is what New needs. Times default where they are zero.
type Config struct {
	// Self is the URL of this replica's own private API. No other replica may have it.
	Self string
	// Redis is where it is. Without addresses this replica is alone.
	Redis Redis
	// AliveTTL is how long a replica is used that has not been heard of. It says that it is
	// alive each two fifths of it. Default 5s.
	AliveTTL time.Duration
	// EntryTTL is how long Redis keeps what a replica said that has not been heard of, and
	// how long answers are used while Redis is away. Default 60s.
	EntryTTL time.Duration
	// LeaseTTL is how long after the end of its holder a lease becomes free. It is renewed
	// each third of it. Default 15s.
	LeaseTTL time.Duration
	// Clock is time here. Expiry in Redis is by Redis's clock.
	Clock clock.WithTicker
}

// Redis is how to reach it.
type Redis struct {
	// Addresses is one host:port or path of a Unix socket, or with MasterName those of
	// Sentinels.
	Addresses []string
	// Network is "tcp" (default) or "unix".
	Network string
	// MasterName is what Sentinels call the master. Empty: there are no Sentinels.
	MasterName string
	// SentinelPassword is for Sentinels; Username and Password are for Redis itself.
	SentinelPassword   string
	Username, Password string
	// TLS, unless nil, is spoken with Redis and Sentinels.
	TLS *tls.Config
	// Database is its number.
	Database int
	// Prefix is what all keys and channels begin with. Default "gitlab-kas".
	Prefix string
	// DialTimeout bounds how long a connection may take, greeting included. Default 5s.
	DialTimeout time.Duration
	// WriteTimeout bounds how long an answer may take. Default 3s, and at most a third of
	// LeaseTTL.
	WriteTimeout time.Duration
}

// Collaborators of Replicas.
type Collaborators struct {
	Registerer prometheus.Registerer
	Log        *zap.Logger
}

// Replicas is this replica's view of all. Its methods may be called concurrently, before Run,
// while it runs, and after it; unless it runs, Redis is away.
type Replicas struct {
	cfg      Config
	log      *zap.Logger
	metrics  *metrics
	instance string // of this process, in messages and leases: 16 hexadecimal digits

	registry *registry
	where    *whereabouts
	bus      *bus
	leases   *leases
	// onOrphans, unless nil, is told of agents that have lost their replica.
	onOrphans func(agentIDs []int64, turn int)

	mu      sync.Mutex
	session *session // nil while Redis is away
	reason  error    // why it is
}

// New returns a Replicas that does nothing before Run. That Redis is away is no error.
func New(cfg Config, c Collaborators) (*Replicas, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of replicas: %w", err)
	}
	id := make([]byte, instanceLength/2)
	_, _ = rand.Read(id) // it cannot fail
	return &Replicas{
		cfg: cfg, log: c.Log, metrics: m, instance: hex.EncodeToString(id),
		registry: newRegistry(),
		where:    newWhereabouts(cfg.Clock, cfg.EntryTTL),
		bus:      newBus(m),
		leases:   newLeases(cfg.Clock, cfg.LeaseTTL),
		reason:   errNotYet,
	}, nil
}

// Run keeps up the session with Redis until ctx ends. Then it takes back that this replica is
// there, and returns nil.
func (r *Replicas) Run(ctx context.Context) error {
	if r.alone() {
		<-ctx.Done()
		return nil
	}
	var g errgroup.Group
	g.Go(func() error { r.bus.dispatch(ctx); return nil })
	g.Go(func() error { r.keepSession(ctx); return nil })
	return g.Wait()
}

func (r *Replicas) alone() bool { return len(r.cfg.Redis.Addresses) == 0 }

// current is the session. Without one it is nil, and the error says why: nil where this
// replica is alone.
func (r *Replicas) current() (*session, error) {
	if r.alone() {
		return nil, nil //nolint:nilnil // callers want both
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.session == nil:
		return nil, fmt.Errorf("%w: %w", ErrAway, r.reason)
	case r.session.over():
		return nil, fmt.Errorf("%w: %w", ErrAway, r.session.failure)
	default:
		return r.session, nil
	}
}

// key is the name of a key or channel in Redis.
func (r *Replicas) key(parts string) string { return r.cfg.Redis.Prefix + ":" + parts }

func (c *Config) complete() error {
	setDefault(&c.AliveTTL, 5*time.Second)
	setDefault(&c.EntryTTL, time.Minute)
	setDefault(&c.LeaseTTL, 15*time.Second)
	setDefault(&c.Redis.DialTimeout, 5*time.Second)
	setDefault(&c.Redis.WriteTimeout, 3*time.Second)
	// Who cannot renew a lease must know before it is somebody else's.
	c.Redis.WriteTimeout = min(c.Redis.WriteTimeout, c.LeaseTTL/3)
	if c.Redis.Prefix == "" {
		c.Redis.Prefix = "gitlab-kas"
	}
	if c.Redis.Network == "" {
		c.Redis.Network = "tcp"
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	switch {
	case len(c.Redis.Addresses) == 0:
		return nil
	case c.Self == "":
		return errors.New("replicas need a URL of this one's private API")
	case c.Redis.MasterName == "" && len(c.Redis.Addresses) > 1:
		return errors.New("several addresses of Redis are for Sentinels, which need the name of the master")
	}
	return nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

package redis

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
	"github.com/kas-agentk/kas/sandbox"
)

// atOnce is how many tests run side by side: they mostly wait.
const atOnce = "12"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// start runs a Redis of the test's own.
func start(tb testing.TB, args ...string) *sandbox.Redis {
	tb.Helper()
	return startWith(tb, sandbox.RedisConfig{Args: args})
}

func startWith(tb testing.TB, cfg sandbox.RedisConfig) *sandbox.Redis {
	tb.Helper()
	r, err := sandbox.StartRedis(tb.Context(), cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, r.Stop()) })
	return r
}

// replica is one that runs until the test ends, or is ended.
type replica struct {
	*replicas.Replicas
	url     string
	metrics *prometheus.Registry
	log     *observer.ObservedLogs
	end     func() // and waits
}

// config has times that nobody waits for: what is kept up is not lost, however busy the
// machine is.
func config(address, url string) replicas.Config {
	return replicas.Config{
		Self:     url,
		AliveTTL: 30 * time.Second, EntryTTL: 2 * time.Minute, LeaseTTL: 2 * time.Minute,
		Redis: replicas.Redis{
			Addresses: []string{address}, DialTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second,
		},
	}
}

// watchful is config that soon notices what has changed in Redis of itself.
func watchful(address, url string) replicas.Config {
	cfg := config(address, url)
	cfg.AliveTTL = time.Second
	return cfg
}

// hasty has times that tests can wait for. On a busy machine all may be lost at any time, for
// a while.
func hasty(address, url string) replicas.Config {
	cfg := watchful(address, url)
	cfg.EntryTTL, cfg.LeaseTTL = 3*time.Second, 3*time.Second
	cfg.Redis.DialTimeout, cfg.Redis.WriteTimeout = 2*time.Second, time.Second
	return cfg
}

func run(tb testing.TB, cfg replicas.Config) *replica {
	tb.Helper()
	return runWith(tb, cfg, func(*replicas.Replicas) {})
}

// runWith calls prepare before the replica runs.
func runWith(tb testing.TB, cfg replicas.Config, prepare func(*replicas.Replicas)) *replica {
	tb.Helper()
	log, logs := observer.New(zap.InfoLevel)
	p := &replica{url: cfg.Self, metrics: prometheus.NewRegistry(), log: logs}
	var err error
	p.Replicas, err = replicas.New(cfg, replicas.Collaborators{Registerer: p.metrics, Log: zap.New(log)})
	require.NoError(tb, err)
	prepare(p.Replicas)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx) })
	p.end = func() { cancel(); running.Wait() }
	tb.Cleanup(p.end)
	return p
}

// several runs replicas on one Redis and waits until each knows all others.
func several(t *testing.T, redis *sandbox.Redis, urls ...string) []*replica {
	t.Helper()
	return severalOf(t, config, redis, urls...)
}

func severalOf(t *testing.T, config func(address, url string) replicas.Config, redis *sandbox.Redis, urls ...string) []*replica {
	t.Helper()
	var all []*replica
	for _, url := range urls {
		all = append(all, run(t, config(redis.Address, url)))
	}
	for _, p := range all {
		p.seesAllOf(t, urls)
	}
	return all
}

func (p *replica) seesAllOf(tb testing.TB, urls []string) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		others, err := p.Others(tb.Context())
		if want := slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return u == p.url }); err != nil || !slices.Equal(others, want) {
			return fmt.Errorf("%s sees %v, %w; not %v", p.url, others, err, want)
		}
		return nil
	})
}

func (p *replica) up(tb testing.TB, want float64) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		if got := p.metric(tb, "kas_redis_up"); got != want {
			return fmt.Errorf("kas_redis_up is %v", got)
		}
		return nil
	})
}

func (p *replica) metric(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := p.metrics.Gather()
	require.NoError(tb, err)
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	tb.Fatalf("no metric %s", name)
	return 0
}

// finds waits until Where says that the agent is at the URLs. It asks anew only when it is
// told to.
func (p *replica) finds(tb testing.TB, agentID int64, want ...string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testkit.Patience)
	defer cancel()
	for {
		urls, changed, err := p.Where(ctx, agentID)
		if err == nil && slices.Equal(urls, want) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			tb.Fatalf("%s is told that agent %d is at %v, %v; not at %v", p.url, agentID, urls, err, want)
		}
	}
}

// ear collects what is heard; nil is "-".
type ear struct {
	mu    sync.Mutex
	heard []string
}

func (e *ear) hear(message []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if message == nil {
		e.heard = append(e.heard, "-")
		return
	}
	e.heard = append(e.heard, string(message))
}

func (e *ear) has(tb testing.TB, want string) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		if got := e.all(); got != want {
			return fmt.Errorf("heard %q, not %q", got, want)
		}
		return nil
	})
}

func (e *ear) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.heard, " ")
}

// reach is a plain client.
func reach(tb testing.TB, redis *sandbox.Redis) rueidis.Client {
	tb.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{redis.Address}, Password: "", DisableCache: true, ForceSingleClient: true, PipelineMultiplex: -1,
	})
	require.NoError(tb, err)
	tb.Cleanup(c.Close)
	return c
}

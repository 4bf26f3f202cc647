package gitaly

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tracing"
)

// DefaultPollTimeout is how long one poll may take.
const DefaultPollTimeout = 15 * time.Second

// RefsConfig is how refs are polled.
type RefsConfig struct {
	// PollTimeout is how long one poll may take. Zero: DefaultPollTimeout.
	PollTimeout time.Duration
	// Replicas poll each ref once between them. Nil: this kas is alone.
	Replicas Replicas
	// Tracing makes a span of each poll that finds something new. Nil: nothing does.
	Tracing *tracing.Tracing
	// Clock. Nil: the real one.
	Clock clock.WithTicker
}

// Refs follows refs. It is safe for concurrent use.
type Refs struct {
	pool     *Pool
	timeout  time.Duration
	clock    clock.WithTicker
	replicas Replicas
	tracing  *tracing.Tracing
	polls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	running  prometheus.Gauge

	mu      sync.Mutex
	pollers map[refKey]*poller
}

// refKey is what has a poller of its own.
type refKey struct {
	repoKey
	ref gitrepo.Ref
}

// repoKey is a repository.
type repoKey struct {
	address       string
	storage, path string
}

func keyOf(repo gitrepo.Repository) repoKey {
	return repoKey{address: repo.Server.Address, storage: repo.Repository.StorageName, path: repo.Repository.RelativePath}
}

// NewRefs returns a follower of refs.
func NewRefs(config RefsConfig, pool *Pool, registerer prometheus.Registerer) *Refs {
	if config.PollTimeout == 0 {
		config.PollTimeout = DefaultPollTimeout
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	metrics := promauto.With(registerer)
	return &Refs{
		pool:     pool,
		timeout:  config.PollTimeout,
		clock:    config.Clock,
		replicas: config.Replicas,
		tracing:  config.Tracing,
		pollers:  make(map[refKey]*poller),
		polls: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_gitaly_polls_total",
			Help: "Polls of refs, by result: moved, unmoved, problem (a person must act) or error (may pass).",
		}, []string{"result"}),
		seconds: metrics.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kas_gitaly_poll_seconds",
			Help:    "How long polls of refs took, waiting for rate limits included, by result.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"result"}),
		running: metrics.NewGauge(prometheus.GaugeOpts{
			Name: "kas_gitaly_pollers",
			Help: "Refs that are followed: one for each repository and ref.",
		}),
	}
}

// Follow has notify called, one call at a time, with what ref names: first with what is
// known already, before Follow returns, or as soon as Gitaly has answered; then after each
// change. notify must not block, nor call Refs: many follow one ref, and none of them has a
// goroutine for it. stop is to be called once, whether or not ctx has ended; notify is not
// called any more when it has returned.
func (r *Refs) Follow(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref, period time.Duration, notify func(gitrepo.Revision)) (stop func()) {
	f := &follower{period: period, notify: notify}
	p := r.join(ctx, refKey{repoKey: keyOf(repo), ref: ref}, repo, f)
	return func() { r.leave(p, f) }
}

// Lookup asks Gitaly once what ref names now, whether or not anybody follows it. The
// error is the revision's problem.
func (r *Refs) Lookup(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref) (gitrepo.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	found, commitID, err := r.pool.lookup(ctx, repo, ref)
	if err != nil {
		return gitrepo.Revision{Ref: found, Problem: err}, err
	}
	return gitrepo.Revision{Ref: found, CommitID: commitID, DetectedAt: r.clock.Now()}, nil
}

// Poke polls the followed refs of the repositories that match, now. What a poll finds then
// is of the trace of traceparent, which may be empty.
func (r *Refs) Poke(match func(gitlabapi.GitalyRepository) bool, traceparent string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pollers {
		if match(p.repository().Repository) {
			p.causes.add(traceparent)
			p.poke()
		}
	}
}

func (r *Refs) join(ctx context.Context, key refKey, repo gitrepo.Repository, f *follower) *poller {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.pollers[key]; ok {
		p.add(repo, f)
		return p
	}
	p := newPoller(r, key, repo)
	p.add(repo, f) // before it begins: it is to know how often to poll
	r.pollers[key] = p
	r.running.Inc()
	// The poller outlives its first follower where others have come, and keeps nothing of it.
	ctx, p.cancel = context.WithCancel(grpctool.Detached(ctx))
	go p.run(ctx)
	return p
}

// leave ends the poller with its last follower, and waits for its end.
func (r *Refs) leave(p *poller, f *follower) {
	r.mu.Lock()
	last := p.remove(f)
	if last {
		delete(r.pollers, p.key)
		r.running.Dec()
		p.cancel()
	}
	r.mu.Unlock()
	if last {
		<-p.done
	}
}

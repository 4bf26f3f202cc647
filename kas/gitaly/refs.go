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
)

// DefaultPollTimeout is how long one poll may take.
const DefaultPollTimeout = 15 * time.Second

// RefsConfig is how refs are polled.
type RefsConfig struct {
	// PollTimeout is how long one poll may take. Zero: DefaultPollTimeout.
	PollTimeout time.Duration
	// Replicas poll each ref once between them. Nil: this kas is alone.
	Replicas Replicas
	// Clock. Nil: the real one.
	Clock clock.WithTicker
}

// Refs follows refs. It is safe for concurrent use.
type Refs struct {
	pool     *Pool
	timeout  time.Duration
	clock    clock.WithTicker
	replicas Replicas
	polls    *prometheus.CounterVec
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
		pollers:  make(map[refKey]*poller),
		polls: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_gitaly_polls_total",
			Help: "Polls of refs, by result: moved, unmoved, problem (a person must act) or error (may pass).",
		}, []string{"result"}),
		running: metrics.NewGauge(prometheus.GaugeOpts{
			Name: "kas_gitaly_pollers",
			Help: "Refs that are followed: one for each repository and ref.",
		}),
	}
}

// Follow calls notify, one call at a time, with what ref names: first with what is
// known already, or as soon as Gitaly has answered, then after each change. It
// returns ctx's error when ctx ends, and not before.
func (r *Refs) Follow(ctx context.Context, repo gitrepo.Repository, ref gitrepo.Ref, period time.Duration, notify func(gitrepo.Revision)) error {
	f := &follower{period: period, box: make(chan gitrepo.Revision, 1)}
	p := r.join(ctx, refKey{repoKey: keyOf(repo), ref: ref}, repo, f)
	defer r.leave(p, f)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case revision := <-f.box:
			if ctx.Err() == nil {
				notify(revision)
			}
		}
	}
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

// Poke polls the followed refs of the repositories that match, now.
func (r *Refs) Poke(match func(gitlabapi.GitalyRepository) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pollers {
		if match(p.repository().Repository) {
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
	// The poller outlives its first follower where others have come.
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
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

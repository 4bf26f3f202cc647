package status

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// What Config says where it is zero.
const (
	DefaultInterval    = 100 * time.Millisecond
	DefaultKeepOffline = time.Hour
	DefaultGrace       = 5 * time.Second
	DefaultHold        = 2 * time.Second
)

// shareRetry is the longest wait before what could not be kept for other replicas is
// tried again.
const shareRetry = 2 * time.Second

// Config of a Store.
type Config struct {
	// Interval between two posts about one project. Zero: DefaultInterval.
	Interval time.Duration
	// KeepOffline is how long a project is kept in memory after its last stream ended.
	// Zero: DefaultKeepOffline.
	KeepOffline time.Duration
	// Replicas share what they know. Nil: this kas is alone. Then nothing that follows
	// matters.
	Replicas Replicas
	// Self is what Replicas calls this one: its URL.
	Self string
	// Grace is how long an agent whose stream has ended may take to open one with another
	// replica before it is said to be away. Zero: DefaultGrace.
	Grace time.Duration
	// Hold is how long an agent that has come from another replica may take to report
	// before it is said to have said nothing. Zero: DefaultHold.
	Hold  time.Duration
	Clock clock.WithTicker
}

// New returns a store that tells poster of every change while Run runs.
func New(cfg Config, poster Poster, log *zap.Logger, registerer prometheus.Registerer) (*Store, error) {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.KeepOffline == 0 {
		cfg.KeepOffline = DefaultKeepOffline
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Hold == 0 {
		cfg.Hold = DefaultHold
	}
	s := &Store{
		clock: cfg.Clock, cfg: cfg, replicas: cfg.Replicas,
		agents: make(map[int64]*agent), silent: make(map[Key]struct{}), away: make(map[int64]time.Time),
		orphans: make(map[int64]time.Time),
	}
	var err error
	if s.speed, err = newSpeed(registerer); err != nil {
		return nil, err
	}
	s.forward = newForwarder(cfg, poster, log)
	s.forward.render, s.forward.told = s.update, s.told
	if s.replicas != nil {
		s.share = newForwarder(cfg, keeper{s}, zap.NewNop()) // whoever reaches them says where it cannot
		s.share.render, s.share.told = s.toKeep, func(*syncstatus.Update) {}
		s.share.backoff.MaxInterval = shareRetry
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kas_status_unposted",
		Help: "Statuses that RoR has not been told of yet.",
	}, s.forward.backlog)
	if err := registerer.Register(gauge); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return s, nil
}

// Run tells RoR of changes and forgets agents that are long gone, until ctx ends. What is
// due then is still posted, for two seconds at most; what changes later is not.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.forward.run(ctx) })
	g.Go(func() error { return s.forget(ctx) })
	if s.replicas != nil {
		g.Go(func() error { return s.share.run(ctx) })
		g.Go(func() error { return s.listen(ctx) })
		g.Go(func() error { return s.adopt(ctx) })
	}
	return g.Wait()
}

// update is what RoR is to be told of a posting; nil: nothing.
func (s *Store) update(what posting) *syncstatus.Update {
	s.mu.Lock()
	a := s.agents[what.agentID]
	if a == nil {
		s.mu.Unlock()
		return nil
	}
	if what.projectID == "" {
		configuration := a.configuration
		s.mu.Unlock()
		if configuration == nil {
			return nil
		}
		return &syncstatus.Update{AgentId: what.agentID, Update: &syncstatus.Update_Configuration{Configuration: configuration}}
	}
	p := a.projects[what.projectID]
	if p != nil && p.silent {
		s.mu.Unlock()
		return nil
	}
	if p == nil {
		_, removed := a.removed[what.projectID]
		s.mu.Unlock()
		if !removed {
			return nil
		}
		return &syncstatus.Update{AgentId: what.agentID, Update: &syncstatus.Update_RemovedProjectId{RemovedProjectId: what.projectID}}
	}
	taken := snap(a, p)
	s.mu.Unlock()
	return &syncstatus.Update{AgentId: what.agentID, Update: &syncstatus.Update_Status{Status: render(taken, true)}}
}

// told notes that RoR knows that a project is gone.
func (s *Store) told(update *syncstatus.Update) {
	if id := update.GetRemovedProjectId(); id != "" {
		s.with(update.GetAgentId(), func(a *agent) { delete(a.removed, id) })
	}
}

// forget drops projects that have had no stream for KeepOffline, and configurations of
// agents of which nothing else is left.
func (s *Store) forget(ctx context.Context) error {
	tick := s.clock.NewTicker(s.cfg.KeepOffline / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C():
			s.sweep(s.clock.Now().Add(-s.cfg.KeepOffline))
			if s.replicas != nil {
				s.refresh()
			}
		}
	}
}

// sweep drops what has been offline since before.
func (s *Store) sweep(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.agents {
		if a.present > 0 || a.leftAt.After(before) {
			continue
		}
		for name, p := range a.projects {
			if !p.offlineSince.IsZero() && p.offlineSince.Before(before) {
				delete(a.projects, name)
				s.forward.mark(posting{agentID: id, projectID: name}) // finds nothing, and forgets it
			}
		}
		if a.idle() {
			delete(s.agents, id)
			s.forward.mark(posting{agentID: id})
		}
	}
}

package status

import (
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// Store is the newest of everything. Its methods may be called by many goroutines.
type Store struct {
	clock   clock.WithTicker
	cfg     Config
	speed   *speed
	forward *forwarder
	// replicas and share are nil where this kas is alone.
	replicas Replicas
	share    *forwarder

	mu     sync.Mutex
	agents map[int64]*agent
	// silent are the projects that are left to other replicas.
	silent map[Key]struct{}
	// away are the agents that no replica had when a reader asked, and since when.
	away map[int64]time.Time
	// orphans are agents whose replica is gone, and until when they may come to another one.
	orphans map[int64]time.Time
}

// agent is everything about one agent.
type agent struct {
	name string
	// present is how many times it arrived and has not left; leftAt is when it last left.
	present       int
	leftAt        time.Time
	configuration *syncstatus.ConfigurationStatus
	// configured are the projects that its configuration names; nil: not known.
	configured map[string]struct{}
	projects   map[string]*project
	// streams that are open, by project, whether or not the project is kept.
	streams map[string]int
	// removed are projects of which RoR has not been told yet that they are gone.
	removed  map[string]struct{}
	watchers map[*watcher]struct{}
}

// idle tells whether nothing is left but its configuration.
func (a *agent) idle() bool {
	return a.present+len(a.projects)+len(a.streams)+len(a.removed)+len(a.watchers) == 0
}

// with runs change on an agent, which is made if need be and dropped when nothing of it is left.
func (s *Store) with(agentID int64, change func(*agent)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	if a == nil {
		a = &agent{
			projects: make(map[string]*project),
			streams:  make(map[string]int),
			removed:  make(map[string]struct{}),
			watchers: make(map[*watcher]struct{}),
		}
		s.agents[agentID] = a
	}
	change(a)
	if a.idle() && a.configuration == nil {
		delete(s.agents, agentID)
	}
}

// maxUnconfigured is how many projects are kept of an agent whose configuration is not
// known: it may ask for any.
const maxUnconfigured = 1000

// project returns what is kept of a project, made if need be; nil where the agent's
// configuration does not name it, or it is one too many.
func (s *Store) project(a *agent, key Key) *project {
	if a.configured != nil {
		if _, ok := a.configured[key.ProjectID]; !ok {
			return nil
		}
	}
	p := a.projects[key.ProjectID]
	if p == nil && a.configured == nil && len(a.projects) >= maxUnconfigured {
		return nil
	}
	if p == nil {
		p = &project{key: key, offlineSince: s.clock.Now()}
		a.projects[key.ProjectID] = p
		s.hush(p)
		delete(a.removed, key.ProjectID)
	}
	return p
}

// touched tells watchers and RoR that a project changed. The lock is held.
func (s *Store) touched(a *agent, p *project) {
	p.agentName = a.name
	p.updatedAt = s.clock.Now()
	s.changed(a, p.key)
}

// changed is touched for what need not be there any more. The lock is held.
func (s *Store) changed(a *agent, key Key) {
	for w := range a.watchers {
		w.mark(key.ProjectID)
	}
	s.mark(posting{agentID: key.AgentID, projectID: key.ProjectID})
}

// mark notes that RoR and the other replicas are to be told.
func (s *Store) mark(what posting) {
	s.forward.mark(what)
	if s.share != nil {
		s.share.mark(what)
	}
}

// Arrived is told that an agent is there: see agents.Status.
func (s *Store) Arrived(info gitlabapi.AgentInfo) {
	s.with(info.AgentID, func(a *agent) {
		a.name = info.AgentName
		a.present++
		s.touchWaiting(a)
	})
}

// Left is told that an agent is gone: see agents.Status.
func (s *Store) Left(info gitlabapi.AgentInfo) {
	s.with(info.AgentID, func(a *agent) {
		a.present--
		a.leftAt = s.clock.Now()
		s.touchWaiting(a)
	})
}

// touchWaiting touches the projects whose state follows from whether the agent is there.
func (s *Store) touchWaiting(a *agent) {
	for id, p := range a.projects {
		if a.streams[id] == 0 {
			s.touched(a, p)
		}
	}
}

// Configuration is told how an agent's configuration fares: see agents.Status.
func (s *Store) Configuration(info gitlabapi.AgentInfo, cfg *syncstatus.ConfigurationStatus, projects []string) {
	s.with(info.AgentID, func(a *agent) {
		a.name = info.AgentName
		if !proto.Equal(a.configuration, cfg) {
			a.configuration = cfg
			s.forward.mark(posting{agentID: info.AgentID})
		}
		if s.share != nil {
			s.share.mark(posting{agentID: info.AgentID})
		}
		if projects == nil {
			return
		}
		a.configured = make(map[string]struct{}, len(projects))
		for _, id := range projects {
			a.configured[id] = struct{}{}
			if a.projects[id] == nil {
				s.touched(a, s.project(a, Key{info.AgentID, id}))
			}
		}
		for id := range a.projects {
			if _, ok := a.configured[id]; !ok {
				delete(a.projects, id)
				a.removed[id] = struct{}{}
				s.mark(posting{agentID: info.AgentID, projectID: id})
			}
		}
	})
}

// Connected is told that a stream for a project is open: see push.Status.
func (s *Store) Connected(info gitlabapi.AgentInfo, projectID string) {
	s.with(info.AgentID, func(a *agent) {
		a.name = info.AgentName
		a.streams[projectID]++
		if p := s.project(a, Key{info.AgentID, projectID}); p != nil {
			if p.silent || p.report == nil {
				s.hush(p) // what it is about to report may be known elsewhere
			}
			p.wasConnected, p.offlineSince, p.staged = true, time.Time{}, nil
			p.connectedSince, p.superseded, p.heard = s.clock.Now(), false, false
			s.touched(a, p)
		}
	})
}

// Disconnected is told that a stream has ended.
func (s *Store) Disconnected(info gitlabapi.AgentInfo, projectID string) {
	s.with(info.AgentID, func(a *agent) {
		if a.streams[projectID]--; a.streams[projectID] > 0 {
			return
		}
		delete(a.streams, projectID)
		if p := a.projects[projectID]; p != nil {
			p.offlineSince, p.staged = s.clock.Now(), nil
			s.hush(p) // it may be on its way to another replica
			s.touched(a, p)
		}
	})
}

// Source is told what was found in Git. It keeps update.
func (s *Store) Source(info gitlabapi.AgentInfo, projectID string, update *syncstatus.ProjectStatus) {
	s.with(info.AgentID, func(a *agent) {
		a.name = info.AgentName
		p := s.project(a, Key{info.AgentID, projectID})
		if p == nil {
			return
		}
		if update.GetWantedCommit() == "" && update.GetState() == syncstatus.State_STATE_FAILED {
			// The commit last seen stays what is wanted while Git cannot be read.
			update.WantedCommit, update.Times = p.source.GetWantedCommit(), p.source.GetTimes()
		}
		if !proto.Equal(p.source, update) {
			p.source, p.last = update, nil
			s.speakIfKnown(p)
			s.touched(a, p)
		}
	})
}

// Report is told what the agent says. It keeps report.
func (s *Store) Report(info gitlabapi.AgentInfo, projectID string, report *agentrpc.Report) {
	s.with(info.AgentID, func(a *agent) {
		p := s.project(a, Key{info.AgentID, projectID})
		first := p != nil && !p.heard
		if p != nil && p.take(report) {
			s.speed.reported(p, first, s.clock.Now())
			p.last, p.superseded, p.heard = nil, false, true
			s.speakIfKnown(p)
			s.forward.trace(posting{agentID: info.AgentID, projectID: projectID}, report.GetTraceparent())
			s.touched(a, p)
		}
	})
}

// snap takes a project out, to be rendered without the lock; it is held now.
func snap(a *agent, p *project) snapshot {
	out := snapshot{
		key: p.key, agentName: p.agentName, wasConnected: p.wasConnected, updatedAt: p.updatedAt,
		connected: a.streams[p.key.ProjectID] > 0,
		present:   a.present > 0,
		source:    p.source, last: p.last, excess: p.excess,
		objects: slices.AppendSeq(make([]*syncstatus.ObjectStatus, 0, len(p.objects)), maps.Values(p.objects)),
	}
	if r := p.report; r != nil {
		out.report = reported{
			commit: r.GetCommitId(), applied: r.GetAppliedCommitId(), message: r.GetMessage(),
			state: r.GetState(), appliedAt: r.GetAppliedAt(), readyAt: r.GetReadyAt(), ranAt: r.GetRanAt(),
			suspension: r.GetSuspension(), heldPrune: r.GetHeldPrune(),
		}
	}
	return out
}

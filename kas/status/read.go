package status

import (
	"context"
	"maps"
	"slices"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// Get returns one project's status with its objects; false: it is not known.
func (s *Store) Get(ctx context.Context, agentID int64, projectID string) (*syncstatus.ProjectStatus, bool) {
	found := s.view(ctx, agentID, projectID).read(projectID, true)
	return found, found != nil
}

// List returns an agent's projects without objects, ordered by project, and how its
// configuration fares (nil: not known).
func (s *Store) List(ctx context.Context, agentID int64) ([]*syncstatus.ProjectStatus, *syncstatus.ConfigurationStatus) {
	v := s.view(ctx, agentID, everything)
	var out []*syncstatus.ProjectStatus
	for _, id := range v.projects() {
		if found := v.read(id, false); found != nil {
			out = append(out, found)
		}
	}
	return out, v.configuration()
}

// view is all that can be known of one agent: what this store knows, and where others may
// know better what they said.
type view struct {
	store   *Store
	agentID int64
	// copies are nil where this store knows best, or the others cannot be asked.
	copies copies
	// away: no replica has the agent, nor had it a moment ago.
	away bool
}

// view of an agent, for reading a project, or everything.
func (s *Store) view(ctx context.Context, agentID int64, projectID string) view {
	v := view{store: s, agentID: agentID}
	if s.replicas == nil || s.knowsBest(agentID, projectID) {
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	found, err := s.kept(ctx, agentID)
	if err != nil {
		return v // what this store knows has to do
	}
	v.copies = found
	urls, _, err := s.replicas.Where(ctx, agentID)
	v.away = err == nil && s.isAway(agentID, len(urls) > 0)
	return v
}

// maxAway bounds how many agents are known to be away.
const maxAway = 10_000

// isAway tells whether no replica has had the agent for some time: it may be on its way from
// one to another. there: another one has it.
func (s *Store) isAway(agentID int64, there bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.agents[agentID]; there || a != nil && a.present > 0 {
		delete(s.away, agentID)
		return false
	}
	since, known := s.away[agentID]
	if !known {
		if len(s.away) >= maxAway {
			clear(s.away) // then they are said to be away a little later
		}
		since = s.clock.Now()
		s.away[agentID] = since
	}
	return s.clock.Since(since) >= s.cfg.Grace
}

// knowsBest tells whether no other replica can know more of a project, or of any.
func (s *Store) knowsBest(agentID int64, projectID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	if a == nil {
		return false
	}
	if projectID != everything {
		p := a.projects[projectID]
		return p != nil && !p.silent
	}
	for _, p := range a.projects {
		if p.silent {
			return false
		}
	}
	return a.present > 0 && a.configured != nil
}

// projects are those that are known, ordered.
func (v view) projects() []string {
	ids := v.copies.projects()
	v.store.mu.Lock()
	if a := v.store.agents[v.agentID]; a != nil {
		ids = slices.AppendSeq(ids, maps.Keys(a.projects))
	}
	v.store.mu.Unlock()
	slices.Sort(ids)
	return slices.Compact(ids)
}

// configuration is how the agent's fares; nil: it is not known.
func (v view) configuration() *syncstatus.ConfigurationStatus {
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	a := v.store.agents[v.agentID]
	if theirs := v.copies.configuration(); theirs != nil && (a == nil || a.present == 0) {
		return theirs
	}
	if a == nil {
		return nil
	}
	return a.configuration
}

// read returns a project's status, with or without its objects, from who knows it best;
// nil: it is not known.
func (v view) read(projectID string, withObjects bool) *syncstatus.ProjectStatus {
	var taken snapshot
	known, silent := false, true
	v.store.mu.Lock()
	if a := v.store.agents[v.agentID]; a != nil && a.projects[projectID] != nil {
		p := a.projects[projectID]
		taken, known, silent = snap(a, p), true, p.silent
	}
	v.store.mu.Unlock()
	if silent {
		if theirs, _ := v.copies.project(Key{v.agentID, projectID}); theirs != nil {
			if v.away {
				lost(theirs, false)
			}
			if !withObjects {
				theirs.Objects = nil
			}
			return theirs
		}
	}
	if !known {
		return nil
	}
	return render(taken, withObjects)
}

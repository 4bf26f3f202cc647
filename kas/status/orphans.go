package status

import (
	"context"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// returnTime is how much longer an agent may take to come back for each one that lost its
// replica with it: many come back one after another.
const returnTime = 5 * time.Millisecond

// Orphaned is told of agents whose replica is gone. Those that come to none are said to be
// away by one of those that are told; turn, from 0, is different for each of them, so that the
// next one has time to see what the one before it has said. It does not block.
func (s *Store) Orphaned(agentIDs []int64, turn int) {
	// Who cannot tell yet looks again after Grace: no two are to do so at the same moment.
	turnTime := s.cfg.Grace + 2*s.cfg.Grace/judgements
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.clock.Now().Add(s.cfg.Grace + time.Duration(turn)*turnTime + time.Duration(len(agentIDs))*returnTime)
	for _, id := range agentIDs {
		s.orphans[id] = due
	}
}

// adopt says of orphans that they are away, until ctx ends.
func (s *Store) adopt(ctx context.Context) error {
	tick := s.clock.NewTicker(s.cfg.Grace / judgements)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C():
			alive := make(map[string]bool)
			for _, id := range s.dueOrphans() {
				s.adoptOne(ctx, id, alive)
			}
		}
	}
}

// dueOrphans are those that have had time to come back.
func (s *Store) dueOrphans() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	var due []int64
	for id, at := range s.orphans {
		if !now.Before(at) {
			due = append(due, id)
		}
	}
	return due
}

// adoptOne speaks of an agent that no replica has, unless somebody has done so. alive are the
// answers of replicas that have been asked already.
func (s *Store) adoptOne(ctx context.Context, agentID int64, alive map[string]bool) {
	last, done := s.lastWords(ctx, agentID, alive)
	s.with(agentID, func(a *agent) {
		if !done {
			for now := s.clock.Now(); !s.orphans[agentID].After(now); {
				s.orphans[agentID] = s.orphans[agentID].Add(s.cfg.Grace)
			}
			return
		}
		delete(s.orphans, agentID)
		if a.present > 0 {
			return
		}
		for _, said := range last {
			p := s.project(a, Key{agentID, said.GetProjectId()})
			if p == nil || a.streams[p.key.ProjectID] > 0 || !p.silent {
				continue
			}
			p.last = said
			s.speak(p)
			s.touched(a, p)
		}
	})
}

// lastWords are the statuses that say that an agent is connected which is not, objects
// included. done: there will be no others.
func (s *Store) lastWords(ctx context.Context, agentID int64, alive map[string]bool) (last []*syncstatus.ProjectStatus, done bool) {
	if s.isPresent(agentID) {
		return nil, true
	}
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	urls, _, err := s.replicas.Where(asking, agentID)
	if err != nil || len(urls) > 0 {
		return nil, err == nil // who has the agent speaks of it
	}
	kept, err := s.kept(asking, agentID)
	if err != nil {
		return nil, false
	}
	done = true
	for _, id := range kept.projects() {
		said, owner := kept.project(Key{agentID, id})
		if said == nil || !said.GetConnected() {
			continue
		}
		if owner != s.cfg.Self && s.answers(ctx, owner, alive) {
			done = false // it cannot reach the others, and has the agent for all that is known
			continue
		}
		last = append(last, said)
	}
	if ctx.Err() != nil { // whoever has not answered may just not have been heard
		return nil, false
	}
	return last, done
}

// answers asks a replica for a sign of life, unless it has been asked already.
func (s *Store) answers(ctx context.Context, url string, alive map[string]bool) bool {
	if known, asked := alive[url]; asked {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	alive[url] = s.replicas.Answers(ctx, url)
	return alive[url]
}

func (s *Store) isPresent(agentID int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	return a != nil && a.present > 0
}

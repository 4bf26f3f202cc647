package status

import (
	"context"
	"slices"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// judgements are made so often in the time that an agent is given to come back.
const judgements = 5

// hush has the store leave a project to the other replicas, unless it turns out that none
// of them has it. The lock is held.
func (s *Store) hush(p *project) {
	if s.replicas == nil {
		return
	}
	p.silent, p.silentSince = true, s.clock.Now()
	s.silent[p.key] = struct{}{}
}

// speak ends that. The lock is held.
func (s *Store) speak(p *project) {
	p.silent = false
	delete(s.silent, p.key)
}

// speakIfKnown does so once it is known here what the agent says, and of which commit: one
// without the other would be less than another replica has said. That the commit has changed
// does not make a stream speak that another one has superseded. The lock is held.
func (s *Store) speakIfKnown(p *project) {
	if p.heard && !p.superseded && p.source != nil {
		s.speak(p)
	}
}

// listen judges silent projects until ctx ends.
func (s *Store) listen(ctx context.Context) error {
	tick := s.clock.NewTicker(min(s.cfg.Grace, s.cfg.Hold) / judgements)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C():
			for _, c := range s.silences() {
				s.judge(ctx, c)
			}
		}
	}
}

// silence is a project that this store has not spoken of for long enough.
type silence struct {
	key   Key
	since time.Time
	// connected and present are the project's stream, unless it is superseded, and the
	// agent, here.
	connected, present bool
}

func (s *Store) silences() []silence {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []silence
	for key := range s.silent {
		a := s.agents[key.AgentID]
		if a == nil || a.projects[key.ProjectID] == nil {
			delete(s.silent, key)
			continue
		}
		p := a.projects[key.ProjectID]
		c := silence{key: key, since: p.silentSince, connected: a.streams[key.ProjectID] > 0 && !p.superseded, present: a.present > 0}
		wait := s.cfg.Grace
		if c.connected {
			wait = s.cfg.Hold
		}
		if s.clock.Since(c.since) >= wait {
			due = append(due, c)
		}
	}
	return due
}

// verdict on a silent project.
type verdict int

const (
	undecided verdict = iota
	// theirs: another replica speaks of it.
	theirs
	// ours: nobody else does.
	ours
)

// judge decides who speaks of a silent project.
func (s *Store) judge(ctx context.Context, c silence) {
	found, last := ours, (*syncstatus.ProjectStatus)(nil)
	if !c.connected {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		found, last = s.verdict(ctx, c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[c.key.AgentID]
	if a == nil {
		return
	}
	p := a.projects[c.key.ProjectID]
	if p == nil || !p.silent || !p.silentSince.Equal(c.since) {
		return // something has happened since
	}
	switch {
	case found == ours:
		s.speak(p)
		if p.source == nil && p.report == nil && last != nil { // else it has what it said itself
			p.last = last
		}
		s.touched(a, p)
	case found == theirs && a.streams[c.key.ProjectID] > 0:
		p.silentSince = s.clock.Now()
	case found == theirs && a.present == 0:
		delete(a.projects, c.key.ProjectID)
		delete(s.silent, c.key)
		s.changed(a, c.key)
	case found == theirs:
		*p = project{key: p.key, agentName: p.agentName, offlineSince: p.offlineSince}
		s.hush(p)
	default:
		p.silentSince = s.clock.Now()
	}
}

// verdict asks who speaks of a project that has no stream here: who spoke last, if it still
// has the agent; else one of those that have it; else who spoke last. What was said last is
// returned where another one said it.
func (s *Store) verdict(ctx context.Context, c silence) (verdict, *syncstatus.ProjectStatus) {
	urls, _, err := s.replicas.Where(ctx, c.key.AgentID)
	if err != nil {
		return undecided, nil
	}
	kept, err := s.kept(ctx, c.key.AgentID)
	if err != nil {
		return undecided, nil
	}
	last, owner := kept.project(c.key)
	switch {
	case last != nil && slices.Contains(urls, owner), !c.present && len(urls) > 0:
		return theirs, nil
	case last == nil || owner == s.cfg.Self:
		return ours, nil
	case c.present:
		return ours, last
	default:
		return theirs, nil
	}
}

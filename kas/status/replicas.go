package status

import (
	"bytes"
	"context"
	"strconv"
	"time"
)

// Replicas are the kas that act as one with this one, and what they keep for each other.
// An error means that it cannot be reached now.
type Replicas interface {
	// Put keeps fields of a key for all replicas; the whole key expires ttl from now.
	Put(ctx context.Context, key string, fields map[string][]byte, ttl time.Duration) error
	// Get returns the fields of a key; none: nobody put any, or they have expired.
	Get(ctx context.Context, key string) (map[string][]byte, error)
	// Remove takes fields away.
	Remove(ctx context.Context, key string, fields ...string) error
	// Where returns the URLs of the other replicas that have the agent. changed is closed
	// when they may be different.
	Where(ctx context.Context, agentID int64) (urls []string, changed <-chan struct{}, err error)
	// Answers tells whether the replica at the URL gives a sign of life, though it may not
	// reach what the replicas share.
	Answers(ctx context.Context, url string) bool
	// Tell has Store.Heard of each other replica called with a message on the topic. It may
	// get lost, and Heard(nil) is called where that may have happened. It does not block.
	Tell(topic string, message []byte)
}

// Topic is what a Store tells others on.
const Topic = "status"

// answerTime bounds what is asked of Replicas at a time.
const answerTime = 2 * time.Second

// news is what replicas tell each other: that what is kept of a project has changed. Where
// the replica has a stream for it, since is when that was opened; else it is zero.
type news struct {
	key   Key
	since time.Time
}

// separator is between the agent, the time in milliseconds, and the project in messages.
var separator = []byte{' '}

func (n news) encode() []byte {
	since := int64(0)
	if !n.since.IsZero() {
		since = n.since.UnixMilli()
	}
	message := append(strconv.AppendInt(nil, n.key.AgentID, 10), separator...)
	return append(append(strconv.AppendInt(message, since, 10), separator...), n.key.ProjectID...)
}

// decodeNews is false for what is another version's.
func decodeNews(message []byte) (n news, ok bool) {
	agent, rest, _ := bytes.Cut(message, separator)
	since, project, _ := bytes.Cut(rest, separator)
	agentID, err := strconv.ParseInt(string(agent), 10, 64)
	milliseconds, errSince := strconv.ParseInt(string(since), 10, 64)
	if err != nil || errSince != nil {
		return news{}, false
	}
	n.key = Key{agentID, string(project)}
	if milliseconds > 0 {
		n.since = time.UnixMilli(milliseconds)
	}
	return n, true
}

// newsOf is what to tell of a project.
func (s *Store) newsOf(key Key) news {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := news{key: key}
	if a := s.agents[key.AgentID]; a != nil && a.streams[key.ProjectID] > 0 && a.projects[key.ProjectID] != nil {
		n.since = a.projects[key.ProjectID].connectedSince
	}
	return n
}

// Heard takes what another replica told. Nil: something may have been missed, and what was
// kept may be gone.
func (s *Store) Heard(message []byte) {
	if reply, ok := s.heard(message); ok {
		s.replicas.Tell(Topic, reply.encode())
	}
}

// heard does what Heard says, but for the reply, if there is one.
func (s *Store) heard(message []byte) (reply news, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if message == nil {
		s.doubt()
		return news{}, false
	}
	n, ok := decodeNews(message)
	a := s.agents[n.key.AgentID]
	if !ok || a == nil {
		return news{}, false
	}
	for w := range a.watchers {
		w.mark(n.key.ProjectID)
	}
	switch p := a.projects[n.key.ProjectID]; {
	case p == nil:
	case a.streams[n.key.ProjectID] == 0:
		// Who told knows better, and has to say so once more where this one has spoken: it may
		// have told RoR that the agent is away since the other one did that it is not.
		spoke := !p.silent && !n.since.IsZero()
		s.hush(p)
		return news{key: n.key}, spoke
	case n.since.UnixMilli() >= p.connectedSince.UnixMilli():
		p.superseded = true
		s.hush(p)
	default:
		// What that one said of an older stream, or of none, is not to be the last word.
		s.mark(posting{agentID: n.key.AgentID, projectID: n.key.ProjectID})
	}
	return news{}, false
}

// doubt has watchers look for themselves, everything kept anew, and what others may have
// spoken of meanwhile judged. The lock is held.
func (s *Store) doubt() {
	for id, a := range s.agents {
		for w := range a.watchers {
			w.mark(everything)
		}
		s.share.mark(posting{agentID: id})
		for name, p := range a.projects {
			if a.streams[name] == 0 {
				s.hush(p)
			}
			s.share.mark(posting{agentID: id, projectID: name})
		}
	}
}

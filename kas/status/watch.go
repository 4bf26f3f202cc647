package status

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// lookAgain is how often a watcher looks for itself what other replicas know: one that is
// gone tells nothing.
const lookAgain = 10 * time.Second

// everything stands in the place of a project where all are to be looked at.
const everything = ""

// watcher is one Watch: the projects that changed since it last looked.
type watcher struct {
	projectID string // empty: all
	news      chan struct{}

	mu      sync.Mutex
	changed map[string]struct{}
}

func (w *watcher) mark(projectID string) {
	if w.projectID != "" && projectID != everything && w.projectID != projectID {
		return
	}
	w.mu.Lock()
	w.changed[projectID] = struct{}{}
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := slices.Sorted(maps.Keys(w.changed))
	clear(w.changed)
	return changed
}

// version of a status that was sent: an equal one is no news.
type version struct {
	at        time.Time
	state     syncstatus.State
	connected bool
}

// Watch calls send with each status that there is, objects included, and again after each
// change, until ctx ends or send fails. An empty projectID means all of the agent's. What
// changes while send is busy is sent once, in its newest form.
func (s *Store) Watch(ctx context.Context, agentID int64, projectID string, send func(*syncstatus.ProjectStatus) error) error {
	w := &watcher{projectID: projectID, news: make(chan struct{}, 1), changed: make(map[string]struct{})}
	s.with(agentID, func(a *agent) { a.watchers[w] = struct{}{} })
	defer s.with(agentID, func(a *agent) { delete(a.watchers, w) })
	w.mark(everything)
	var again <-chan time.Time
	if s.replicas != nil {
		ticker := s.clock.NewTicker(lookAgain)
		defer ticker.Stop()
		again = ticker.C()
	}
	sent := make(map[string]version)
	for {
		marks := w.take()
		v := s.view(ctx, agentID, projectID)
		for _, id := range v.named(projectID, marks) {
			current := v.read(id, true)
			if current == nil {
				delete(sent, id)
				continue
			}
			this := version{current.GetUpdatedAt().AsTime(), current.GetState(), current.GetConnected()}
			if s.replicas != nil && sent[id] == this {
				continue
			}
			if err := send(current); err != nil {
				return err
			}
			sent[id] = this
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.news:
		case <-again:
			w.mark(everything)
		}
	}
}

// named are the projects that marks are about. projectID is the only one that is watched,
// unless it is empty.
func (v view) named(projectID string, marks []string) []string {
	switch {
	case !slices.Contains(marks, everything):
		return marks
	case projectID != "":
		return []string{projectID}
	default:
		return v.projects()
	}
}

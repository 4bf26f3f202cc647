package status

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// watcher is one Watch: the projects that changed since it last looked.
type watcher struct {
	projectID string // empty: all
	news      chan struct{}

	mu      sync.Mutex
	changed map[string]struct{}
}

func (w *watcher) mark(projectID string) {
	if w.projectID != "" && w.projectID != projectID {
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

// Watch calls send with each status that there is, objects included, and again after each
// change, until ctx ends or send fails. An empty projectID means all of the agent's. What
// changes while send is busy is sent once, in its newest form.
func (s *Store) Watch(ctx context.Context, agentID int64, projectID string, send func(*syncstatus.ProjectStatus) error) error {
	w := &watcher{projectID: projectID, news: make(chan struct{}, 1), changed: make(map[string]struct{})}
	s.with(agentID, func(a *agent) {
		a.watchers[w] = struct{}{}
		for id := range a.projects {
			w.mark(id)
		}
	})
	defer s.with(agentID, func(a *agent) { delete(a.watchers, w) })
	for {
		for _, id := range w.take() {
			if current, ok := s.Get(agentID, id); ok {
				if err := send(current); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.news:
		}
	}
}

package kas

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/kas/agents"
	"github.com/kas-agentk/kas/kas/proxy"
	"github.com/kas-agentk/kas/kas/tunnel"
)

const (
	// lately is how long ago an agent was connected that is expected back: agents that have
	// lost a kas are back within this time.
	lately = time.Minute
	// maxSeen bounds of how many agents it is known when they were connected elsewhere.
	maxSeen = 20_000
)

// whereabouts tells the Kubernetes API proxy whether an agent is connected, and if not,
// whether it is worth waiting for.
type whereabouts struct {
	clock clock.PassiveClock
	// began is when this kas did: it knows of nothing before.
	began time.Time
	// services are those that an agent offers here by the tunnel; connected lists who is
	// connected here, departed how connections to here have ended.
	services  func(agentID int64) []string
	connected func(agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent
	departed  func(agentID int64) []*agentrpc.Disconnection
	// where is at which other kas an agent is; nil: there are none.
	where func(ctx context.Context, agentID int64) (urls []string, changed <-chan struct{}, err error)

	mu sync.Mutex
	// seen is when an agent was found elsewhere last.
	seen map[int64]time.Time
}

func newWhereabouts(c clock.PassiveClock, m *many, registry *agents.Registry, here *tunnel.Server) *whereabouts {
	w := &whereabouts{
		clock: c, began: c.Now(), seen: make(map[int64]time.Time),
		services: here.Services, connected: registry.Connected, departed: registry.Departed,
	}
	if m != nil {
		w.where = m.replicas.Where
	}
	return w
}

// Of implements proxy.Presence.
func (w *whereabouts) Of(ctx context.Context, agentID int64) proxy.Standing {
	if len(w.services(agentID)) > 0 || len(w.connected([]int64{agentID}, nil)) > 0 {
		return proxy.Connected
	}
	if w.where != nil {
		urls, _, err := w.where(ctx, agentID)
		switch {
		case err != nil:
			return proxy.Expected // nobody knows
		case len(urls) > 0:
			w.note(agentID)
			return proxy.Connected
		}
	}
	if w.wasLately(agentID) {
		return proxy.Expected
	}
	return proxy.Absent
}

func (w *whereabouts) note(agentID int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) >= maxSeen {
		clear(w.seen)
	}
	w.seen[agentID] = w.clock.Now()
}

func (w *whereabouts) wasLately(agentID int64) bool {
	last := w.began
	if departed := w.departed(agentID); len(departed) > 0 && departed[0].GetAt().AsTime().After(last) {
		last = departed[0].GetAt().AsTime()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if seen := w.seen[agentID]; seen.After(last) {
		last = seen
	}
	return w.clock.Since(last) < lately
}

package agents

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// maxDepartures of an agent are remembered, of maxRemembered agents.
const maxDepartures = 5

// depart notes how a connection ended. The lock is held.
func (r *Registry) depart(agentID int64, since time.Time, why string) {
	known, ok := r.departed[agentID]
	if !ok && len(r.departed) >= maxRemembered {
		for id := range r.departed { // any one
			delete(r.departed, id)
			break
		}
	}
	if len(known) == maxDepartures {
		known = slices.Delete(known, 0, 1)
	}
	now := r.clock.Now()
	r.departed[agentID] = append(known, &agentrpc.Disconnection{
		At: timestamppb.New(now), Lasted: durationpb.New(now.Sub(since)), Reason: why,
	})
}

// Departed tells how connections of an agent to this kas ended, the newest first. The
// messages are shared: nobody changes them.
func (r *Registry) Departed(agentID int64) []*agentrpc.Disconnection {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.departed[agentID])
	slices.Reverse(all)
	return all
}

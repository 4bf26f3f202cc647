package kas

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/kas/replicas"
)

// announcements are what replicas say of their agents; *replicas.Replicas has them.
type announcements interface {
	Here(agentID int64, entry []byte)
	Entries(ctx context.Context, agentIDs []int64) ([]replicas.Entry, error)
}

// presence tells the other replicas of kas which agents are connected to this one, and RoR
// which are connected to any.
//
// An entry is an encoded railsrpc.GetConnectedAgentsResponse. An agent has one while it is
// listed as connected here or has streams of the tunnel here. Which services it offers is not
// in there: the replica that is asked knows better, and says so.
type presence struct {
	self  string // URL of this replica
	said  announcements
	clock clock.PassiveClock
	// connected lists who is connected here; services are those that an agent offers here.
	connected func(agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent
	services  func(agentID int64) []string

	news chan struct{}
	mu   sync.Mutex
	// changed are the agents of whom something is to be said, or taken back.
	changed map[int64]struct{}
	// seen is who was connected to other replicas, by agent.
	seen map[int64]sighting
}

func newPresence(self string, said announcements, c clock.PassiveClock) *presence {
	return &presence{
		self: self, said: said, clock: c,
		news: make(chan struct{}, 1), changed: make(map[int64]struct{}), seen: make(map[int64]sighting),
	}
}

// note has what there is of an agent said again. It does not block.
func (p *presence) note(agentID int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed[agentID] = struct{}{}
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// run says what changes until ctx ends.
func (p *presence) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.news:
		}
		p.mu.Lock()
		changed := p.changed
		p.changed = make(map[int64]struct{})
		p.mu.Unlock()
		for id := range changed {
			p.said.Here(id, p.entry(id))
		}
	}
}

// entry is what there is of an agent here; nil: nothing.
func (p *presence) entry(agentID int64) []byte {
	connected := p.connected([]int64{agentID}, nil)
	if len(connected) == 0 && len(p.services(agentID)) == 0 {
		return nil
	}
	entry, err := proto.Marshal(&railsrpc.GetConnectedAgentsResponse{Agents: connected})
	if err != nil || entry == nil {
		return []byte{} // that it is here counts most
	}
	return entry
}

// Connected implements rails.Agents and state.Agents. Where the others cannot be asked, it
// lists who was connected to them lately: that Redis is away is said elsewhere.
func (p *presence) Connected(ctx context.Context, agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent {
	found := p.connected(agentIDs, projectID)
	local := len(found)
	for _, agent := range p.elsewhere(ctx, slices.Compact(slices.Sorted(slices.Values(agentIDs)))) {
		if projectID == nil || agent.GetProjectId() == *projectID {
			found = append(found, agent)
		}
	}
	if len(found) == local {
		return found
	}
	return newestOfEach(found)
}

// elsewhere lists who is connected to other replicas; no agents given: of all.
func (p *presence) elsewhere(ctx context.Context, agentIDs []int64) (all []*railsrpc.ConnectedAgent) {
	entries, err := p.said.Entries(ctx, agentIDs)
	if err != nil {
		return p.recall(agentIDs)
	}
	for _, entry := range entries {
		said := &railsrpc.GetConnectedAgentsResponse{}
		// What is here is known better than it is said.
		if entry.URL == p.self || proto.Unmarshal(entry.Data, said) != nil {
			continue
		}
		for _, agent := range said.GetAgents() {
			if agent.GetAgentId() == entry.AgentID {
				all = append(all, agent)
			}
		}
	}
	p.remember(agentIDs, all)
	return all
}

const (
	// recalledFor is how long it is believed what others said while they cannot be asked.
	recalledFor = time.Minute
	// maxRecalled bounds of how many agents that is kept.
	maxRecalled = 20_000
)

// sighting is who was connected to other replicas, of one agent.
type sighting struct {
	agents []*railsrpc.ConnectedAgent
	at     time.Time
}

// remember keeps what others said of agents; none given: of all.
func (p *presence) remember(agentIDs []int64, all []*railsrpc.ConnectedAgent) {
	now := p.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(agentIDs) == 0 || len(p.seen) > maxRecalled {
		clear(p.seen)
	}
	for _, id := range agentIDs {
		delete(p.seen, id)
	}
	for _, agent := range all {
		one := p.seen[agent.GetAgentId()]
		p.seen[agent.GetAgentId()] = sighting{append(one.agents, agent), now}
	}
}

// recall lists who was connected to other replicas; no agents given: of all. They are ordered.
func (p *presence) recall(agentIDs []int64) (all []*railsrpc.ConnectedAgent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, one := range p.seen {
		_, asked := slices.BinarySearch(agentIDs, id)
		if p.clock.Since(one.at) < recalledFor && (asked || len(agentIDs) == 0) {
			all = append(all, one.agents...)
		}
	}
	return all
}

// newestOfEach orders connections by agent and instance, and keeps the newest of each: an
// agent that connects to another kas is listed twice for a moment.
func newestOfEach(all []*railsrpc.ConnectedAgent) []*railsrpc.ConnectedAgent {
	slices.SortStableFunc(all, func(a, b *railsrpc.ConnectedAgent) int {
		return cmp.Or(cmp.Compare(a.GetAgentId(), b.GetAgentId()), cmp.Compare(a.GetInstanceId(), b.GetInstanceId()),
			b.GetConnectedAt().AsTime().Compare(a.GetConnectedAt().AsTime()))
	})
	return slices.CompactFunc(all, func(a, b *railsrpc.ConnectedAgent) bool {
		return a.GetAgentId() == b.GetAgentId() && a.GetInstanceId() == b.GetInstanceId()
	})
}

// onlyHere is who is connected to a kas that is alone.
type onlyHere func(agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent

// Connected implements rails.Agents and state.Agents.
func (o onlyHere) Connected(_ context.Context, agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent {
	return o(agentIDs, projectID)
}

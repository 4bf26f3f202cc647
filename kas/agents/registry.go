package agents

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// Registry lists the agents that are connected to this kas: one entry for each process of
// an agent, however many streams it has open.
type Registry struct {
	clock   clock.PassiveClock
	gauge   prometheus.Gauge
	changed func(agentID int64)

	mu      sync.Mutex
	byAgent map[int64]map[int64]*connection // agent ID, instance ID
	// departed is how connections ended, by agent; the newest last.
	departed map[int64][]*agentrpc.Disconnection
}

type connection struct {
	streams int
	since   time.Time
	agent   *railsrpc.ConnectedAgent // never changed, replaced
}

// NewRegistry returns an empty registry. changed, unless nil, is called when what Connected
// returns of an agent has changed; it must not block, nor call the Registry.
func NewRegistry(c clock.PassiveClock, changed func(agentID int64), registerer prometheus.Registerer) (*Registry, error) {
	if changed == nil {
		changed = func(int64) {}
	}
	r := &Registry{
		clock: c, changed: changed,
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_connected_agents",
			Help: "Agent processes that are connected.",
		}),
		byAgent:  make(map[int64]map[int64]*connection),
		departed: make(map[int64][]*agentrpc.Disconnection),
	}
	if err := registerer.Register(r.gauge); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return r, nil
}

// add notes a stream of an agent's process; the caller calls remove once when it ends, and
// says why it did.
func (r *Registry) add(info gitlabapi.AgentInfo, meta *agentrpc.AgentMeta) (remove func(why string)) {
	entry := &railsrpc.ConnectedAgent{
		AgentId:           info.AgentID,
		AgentName:         info.AgentName,
		ProjectId:         info.ProjectID,
		InstanceId:        meta.GetInstanceId(),
		Version:           clip(meta.GetVersion()),
		PodNamespace:      clip(meta.GetPodNamespace()),
		PodName:           clip(meta.GetPodName()),
		KubernetesVersion: clip(meta.GetKubernetesVersion()),
		ConnectedAt:       timestamppb.New(r.clock.Now()),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	instances := r.byAgent[info.AgentID]
	if instances == nil {
		instances = make(map[int64]*connection)
		r.byAgent[info.AgentID] = instances
	}
	c := instances[entry.GetInstanceId()]
	if c == nil {
		c = &connection{since: entry.GetConnectedAt().AsTime()}
		instances[entry.GetInstanceId()] = c
		r.gauge.Inc()
	}
	c.streams++
	c.agent = entry
	r.changed(info.AgentID)
	return func(why string) { r.remove(info.AgentID, meta.GetInstanceId(), why) }
}

// maxMeta is where each thing that an agent says of itself is cut, in bytes.
const maxMeta = 256

func clip(s string) string {
	if len(s) <= maxMeta {
		return s
	}
	return strings.ToValidUTF8(s[:maxMeta], "")
}

func (r *Registry) remove(agentID, instanceID int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.byAgent[agentID][instanceID]
	c.streams--
	if c.streams > 0 {
		return
	}
	r.gauge.Dec()
	r.depart(agentID, c.since, why)
	delete(r.byAgent[agentID], instanceID)
	if len(r.byAgent[agentID]) == 0 {
		delete(r.byAgent, agentID)
	}
	r.changed(agentID)
}

// Connected lists the connections of these agents (none given: of all), ordered by agent
// and instance, and only those that are configured in projectID unless it is nil. The
// messages are shared: nobody changes them.
func (r *Registry) Connected(agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*railsrpc.ConnectedAgent
	take := func(agentID int64) {
		for _, c := range r.byAgent[agentID] {
			if projectID == nil || c.agent.GetProjectId() == *projectID {
				found = append(found, c.agent)
			}
		}
	}
	if len(agentIDs) == 0 {
		for id := range r.byAgent {
			take(id)
		}
	} else {
		for _, id := range slices.Compact(slices.Sorted(slices.Values(agentIDs))) {
			take(id)
		}
	}
	slices.SortFunc(found, func(a, b *railsrpc.ConnectedAgent) int {
		return cmp.Or(cmp.Compare(a.GetAgentId(), b.GetAgentId()), cmp.Compare(a.GetInstanceId(), b.GetInstanceId()))
	})
	return found
}

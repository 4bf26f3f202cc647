// Package overview puts together what is known of agents: their registration, the
// connections that kas tells of, and how far their projects are. The page and the
// REST API show the same.
package overview

import (
	"context"
	"fmt"
	"slices"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// Kas tells which agents are connected.
type Kas interface {
	// ConnectedAgents lists the connections of the agents named, and answers soon.
	ConnectedAgents(ctx context.Context, ids []int64) ([]*railsrpc.ConnectedAgent, error)
}

// Overview is safe for concurrent use.
type Overview struct {
	registry *registry.Registry
	kas      Kas
}

// New returns an overview.
func New(r *registry.Registry, kas Kas) *Overview {
	return &Overview{registry: r, kas: kas}
}

// Agents is a list of agents.
type Agents struct {
	Agents []Agent
	// KasError is why nothing is known of connections. Empty: it is known.
	KasError string
}

// Agent is one agent as people see it.
type Agent struct {
	registry.Agent
	// Connections has one entry for each running replica.
	Connections []*railsrpc.ConnectedAgent
	registry.AgentStates
}

// Worst is the state of the agent's projects that most wants a person's attention.
// Unspecified: there is no project.
func (a Agent) Worst() syncstatus.State {
	for _, s := range bySeverity {
		if a.Projects[s] > 0 {
			return s
		}
	}
	return syncstatus.State_STATE_UNSPECIFIED
}

// bySeverity orders the states, what most wants attention first.
var bySeverity = []syncstatus.State{
	syncstatus.State_STATE_FAILED,
	syncstatus.State_STATE_PARTIAL,
	syncstatus.State_STATE_OFFLINE,
	syncstatus.State_STATE_PENDING,
	syncstatus.State_STATE_SYNCING,
	syncstatus.State_STATE_PROGRESSING,
	syncstatus.State_STATE_SUSPENDED,
	syncstatus.State_STATE_SYNCED,
}

// Severity of a state: the lower, the more it wants attention.
func Severity(s syncstatus.State) int {
	if i := slices.Index(bySeverity, s); i >= 0 {
		return i
	}
	return len(bySeverity)
}

// Describe adds to registered agents what else is known. That kas is away is no
// error: the list says so.
func (o *Overview) Describe(ctx context.Context, agents []registry.Agent) (Agents, error) {
	states, err := o.registry.States(ctx)
	if err != nil {
		return Agents{}, fmt.Errorf("overview: %w", err)
	}
	ids := make([]int64, 0, len(agents))
	for _, a := range agents {
		ids = append(ids, a.ID)
	}
	list := Agents{Agents: make([]Agent, 0, len(agents))}
	connections := make(map[int64][]*railsrpc.ConnectedAgent)
	connected, err := o.kas.ConnectedAgents(ctx, ids)
	if err != nil {
		list.KasError = kasapi.Explain(err)
	}
	for _, c := range connected {
		connections[c.GetAgentId()] = append(connections[c.GetAgentId()], c)
	}
	for _, a := range agents {
		list.Agents = append(list.Agents, Agent{Agent: a, Connections: connections[a.ID], AgentStates: states[a.ID]})
	}
	return list, nil
}

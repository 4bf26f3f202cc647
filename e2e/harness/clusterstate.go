package harness

import (
	"context"
	"errors"
	"io"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

// ClusterState asks kas as RoR does, about the cluster of an agent.
type ClusterState struct {
	f *Fixture
	// AgentID is the agent that is asked.
	AgentID int64
	// Client is for what the methods do not do.
	Client railsrpc.ClusterStateClient
}

// ClusterState of the fixture's agent, asked of the Env's kas.
func (f *Fixture) ClusterState() *ClusterState { return f.ClusterStateAt(f.Stack.KasAPIAddress) }

// ClusterStateAt asks the kas whose API for RoR is at that address.
func (f *Fixture) ClusterStateAt(address string) *ClusterState {
	f.T.Helper()
	return &ClusterState{f: f, AgentID: f.Agent.ID, Client: railsrpc.NewClusterStateClient(f.DialAPI(address))}
}

// Get asks for one object, within the AnswerTimeout.
func (c *ClusterState) Get(request *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
	ctx, cancel := context.WithTimeout(c.f.T.Context(), AnswerTimeout)
	defer cancel()
	return c.Client.Get(ctx, &railsrpc.ClusterGetRequest{AgentId: c.AgentID, Request: request})
}

// Listed is the whole of an answer.
type Listed struct {
	Source    *clusterstate.Source
	Columns   []*clusterstate.Column
	Items     []*clusterstate.Item
	Continue  string
	Remaining uint64
}

// List asks for objects, within the AnswerTimeout.
func (c *ClusterState) List(request *clusterstate.ListRequest) (Listed, error) {
	ctx, cancel := context.WithTimeout(c.f.T.Context(), AnswerTimeout)
	defer cancel()
	stream, err := c.Client.List(ctx, &railsrpc.ClusterListRequest{AgentId: c.AgentID, Request: request})
	var all Listed
	for err == nil {
		var part *clusterstate.ListResponse
		if part, err = stream.Recv(); err == nil {
			all.Add(part)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}

// Add puts the next part to the ones before.
func (l *Listed) Add(part *clusterstate.ListResponse) {
	if part.GetSource() != nil {
		l.Source, l.Columns = part.GetSource(), part.GetColumns()
	}
	l.Items = append(l.Items, part.GetItems()...)
	l.Continue, l.Remaining = part.GetContinue(), part.GetRemaining()
}

// Names of the items, with their namespaces where they have one.
func (l *Listed) Names() []string {
	names := make([]string, len(l.Items))
	for i, item := range l.Items {
		names[i] = KeyOf(item)
	}
	return names
}

// KeyOf an item is NAMESPACE/NAME or NAME.
func KeyOf(item *clusterstate.Item) string {
	if item.GetNamespace() == "" {
		return item.GetName()
	}
	return item.GetNamespace() + "/" + item.GetName()
}

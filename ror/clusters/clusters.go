package clusters

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// maxAnswer is the largest answer, in bytes as kas sends it, that is put together.
const maxAnswer = 64 << 20

// Kas knows what is in clusters. Its errors are those of package kasapi.
type Kas interface {
	ConnectedAgents(ctx context.Context, ids []int64) ([]*railsrpc.ConnectedAgent, error)
	ClusterGet(context.Context, *railsrpc.ClusterGetRequest) (*clusterstate.GetResponse, error)
	ClusterList(context.Context, *railsrpc.ClusterListRequest, func(*clusterstate.ListResponse) error) error
	ClusterWatch(context.Context, *railsrpc.ClusterWatchRequest, func(*clusterstate.WatchResponse) error) error
	ListFleet(context.Context, *railsrpc.ListFleetRequest, func(*railsrpc.ListFleetResponse) error) error
	Diagnose(context.Context, *railsrpc.DiagnoseRequest) (*railsrpc.DiagnoseResponse, error)
}

// Clusters is safe for concurrent use.
type Clusters struct {
	kas Kas
}

// New returns a Clusters.
func New(kas Kas) *Clusters { return &Clusters{kas: kas} }

// Get returns one object.
func (c *Clusters) Get(ctx context.Context, a registry.Agent, req *clusterstate.GetRequest) (res *clusterstate.GetResponse, err error) {
	err = c.ask(ctx, a, subject{req.GetResource(), req.GetNamespace()}, func(s subject) (*clusterstate.Source, error) {
		req := &clusterstate.GetRequest{Resource: s.resource, Namespace: s.namespace, Name: req.GetName(), Shape: req.GetShape()}
		var err error
		res, err = c.kas.ClusterGet(ctx, &railsrpc.ClusterGetRequest{AgentId: a.ID, Request: req})
		return res.GetSource(), err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// List returns a list, its parts put together.
func (c *Clusters) List(ctx context.Context, a registry.Agent, req *clusterstate.ListRequest) (all *clusterstate.ListResponse, err error) {
	err = c.ask(ctx, a, subject{req.GetQuery().GetResource(), req.GetQuery().GetNamespace()}, func(s subject) (*clusterstate.Source, error) {
		req := &clusterstate.ListRequest{Query: about(req.GetQuery(), s), Limit: req.GetLimit(), Continue: req.GetContinue()}
		all = &clusterstate.ListResponse{}
		size := 0
		err := c.kas.ClusterList(ctx, &railsrpc.ClusterListRequest{AgentId: a.ID, Request: req}, func(part *clusterstate.ListResponse) error {
			return add(all, part, &size)
		})
		return all.GetSource(), err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Watch has each part of a watch as it comes, until each returns an error, which is
// returned, or ctx ends.
func (c *Clusters) Watch(ctx context.Context, a registry.Agent, req *clusterstate.WatchRequest, each func(*clusterstate.WatchResponse) error) error {
	var ended error
	err := c.ask(ctx, a, subject{req.GetQuery().GetResource(), req.GetQuery().GetNamespace()}, func(s subject) (*clusterstate.Source, error) {
		req := &clusterstate.WatchRequest{Query: about(req.GetQuery(), s), Cursor: req.GetCursor()}
		begun := false
		err := c.kas.ClusterWatch(ctx, &railsrpc.ClusterWatchRequest{AgentId: a.ID, Request: req}, func(part *clusterstate.WatchResponse) error {
			begun = true
			return each(part)
		})
		if begun { // the question was good, whatever came of it
			ended = err
			return nil, nil
		}
		return nil, err
	})
	if err != nil {
		return err
	}
	return ended
}

// checkConnected returns an error where it is known that nobody would answer: kas would
// wait for the agent.
func (c *Clusters) checkConnected(ctx context.Context, a registry.Agent) error {
	connected, err := c.kas.ConnectedAgents(ctx, []int64{a.ID})
	if err != nil || len(connected) > 0 { // what is wrong with kas, the question tells
		return nil //nolint:nilerr // see above
	}
	return &kasapi.Error{Code: codes.Unavailable, Message: "agent " + a.Name + " is not connected"}
}

// add adds a part to a list of so many bytes.
func add(all, part *clusterstate.ListResponse, size *int) error {
	if *size += proto.Size(part); *size > maxAnswer {
		return &kasapi.Error{
			Code: codes.OutOfRange,
			Message: fmt.Sprintf("the answer is larger than %d MiB: ask for less, by a namespace, a selector, a limit, or for metadata or a table only",
				maxAnswer>>20),
		}
	}
	if part.GetSource() != nil {
		all.Source, all.Columns = part.GetSource(), part.GetColumns()
	}
	all.Items = append(all.Items, part.GetItems()...)
	all.Continue, all.Remaining = part.GetContinue(), part.GetRemaining()
	return nil
}

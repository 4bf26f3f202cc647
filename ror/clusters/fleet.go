package clusters

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// Answer of one agent of many.
type Answer struct {
	Agent registry.Agent
	// List is whole; nil where there is an Err.
	List *clusterstate.ListResponse
	// Err is why the agent did not answer; nil: it did.
	Err *kasapi.Error
}

// Fleet asks many agents, and returns an answer of each in their order. That some did
// not answer is no error.
func (c *Clusters) Fleet(ctx context.Context, agents []registry.Agent, req *clusterstate.ListRequest) ([]Answer, error) {
	if len(agents) == 0 { // kas would take nobody for a whole project
		return nil, nil
	}
	bare := &clusterstate.ListRequest{Query: about(req.GetQuery(), subject{req.GetQuery().GetResource(), ""}), Limit: req.GetLimit()}
	if req.GetQuery().GetNamespace() == "" || nameOf(req.GetQuery().GetResource()).ClusterScoped() {
		return c.askFleet(ctx, agents, bare)
	}
	answers, err := c.askFleet(ctx, agents, req)
	if err != nil || !slices.ContainsFunc(answers, Answer.isInvalid) {
		return answers, err
	}
	again, err := c.askFleet(ctx, agents, bare) // see scoped
	if err != nil {
		return nil, err
	}
	for i := range again {
		if answers[i].isInvalid() && again[i].Err == nil && !again[i].List.GetSource().GetNamespaced() {
			answers[i] = again[i]
		}
	}
	return answers, nil
}

func (c *Clusters) askFleet(ctx context.Context, agents []registry.Agent, req *clusterstate.ListRequest) ([]Answer, error) {
	answers := make([]Answer, 0, len(agents))
	ids := make([]int64, 0, len(agents))
	byID := make(map[int64]*Answer, len(agents))
	pending := make(map[int64]bool, len(agents))
	for _, a := range agents {
		answers = append(answers, Answer{Agent: a, List: &clusterstate.ListResponse{}})
		ids = append(ids, a.ID)
		byID[a.ID], pending[a.ID] = &answers[len(answers)-1], true
	}
	size := 0
	err := c.kas.ListFleet(ctx, &railsrpc.ListFleetRequest{AgentIds: ids, Request: req}, func(part *railsrpc.ListFleetResponse) error {
		if !pending[part.GetAgentId()] {
			return nil // nobody asked, or it has ended
		}
		answer := byID[part.GetAgentId()]
		if part.GetResponse() != nil {
			if err := add(answer.List, part.GetResponse(), &size); err != nil {
				return err
			}
		}
		if end := part.GetEnd(); end != nil {
			delete(pending, part.GetAgentId())
			if code := codes.Code(end.GetCode()); code != codes.OK {
				answer.fail(&kasapi.Error{Code: code, Message: end.GetMessage()})
			}
		}
		return nil
	})
	if err != nil && (len(pending) == len(agents) || isTooLarge(err)) {
		return nil, err
	}
	for id := range pending {
		byID[id].fail(orSilent(err))
	}
	return answers, nil
}

func (a Answer) isInvalid() bool { return a.Err != nil && a.Err.Code == codes.InvalidArgument }

func (a *Answer) fail(err *kasapi.Error) { a.List, a.Err = nil, err }

func isTooLarge(err error) bool {
	var said *kasapi.Error
	return errors.As(err, &said) && said.Code == codes.OutOfRange
}

// orSilent is why an agent's answer has no end.
func orSilent(err error) *kasapi.Error {
	var said *kasapi.Error
	if errors.As(err, &said) {
		return said
	}
	return &kasapi.Error{Code: codes.Unavailable, Message: "it did not answer"}
}

package clusters

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/resources"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

// subject is what a question is about.
type subject struct {
	resource  *clusterstate.Resource
	namespace string
}

// asking asks about a subject, and returns what source the answer has.
type asking func(subject) (*clusterstate.Source, error)

// ask asks an agent about a subject as people name it. As for kubectl, a custom resource
// may be named without its group, and a namespace means nothing where objects are in none.
func (c *Clusters) ask(ctx context.Context, a registry.Agent, s subject, ask asking) error {
	if err := c.checkConnected(ctx, a); err != nil {
		return err
	}
	err := scoped(s, ask)
	if !hasCode(err, codes.NotFound) || s.resource.GetGroup() != "" || s.resource.GetVersion() != "" || nameOf(s.resource).Known() {
		return err
	}
	groups := c.groupsOf(ctx, a, s.resource.GetResource())
	switch len(groups) {
	case 0:
		return err
	case 1:
		s.resource = &clusterstate.Resource{Group: groups[0], Resource: s.resource.GetResource()}
		return scoped(s, ask)
	}
	for i, group := range groups {
		groups[i] = s.resource.GetResource() + "." + group
	}
	return &kasapi.Error{Code: codes.InvalidArgument, Message: "there are several of this name: ask for one of " + strings.Join(groups, ", ")}
}

func nameOf(r *clusterstate.Resource) resources.Name {
	return resources.Name{Group: r.GetGroup(), Version: r.GetVersion(), Resource: r.GetResource()}
}

// groupsOf are the groups that have a custom resource of that name, as far as the agent
// can tell: that it cannot is no reason for another error.
func (c *Clusters) groupsOf(ctx context.Context, a registry.Agent, plural string) []string {
	var groups []string
	_ = c.kas.ClusterList(ctx, &railsrpc.ClusterListRequest{AgentId: a.ID, Request: &clusterstate.ListRequest{Query: &clusterstate.Query{
		Resource: &clusterstate.Resource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		Shape:    clusterstate.Shape_SHAPE_METADATA,
	}}}, func(part *clusterstate.ListResponse) error {
		for _, item := range part.GetItems() { // a definition's name is its resource's
			if group, ok := strings.CutPrefix(item.GetName(), plural+"."); ok {
				groups = append(groups, group)
			}
		}
		return nil
	})
	slices.Sort(groups)
	return groups
}

// scoped asks with the namespace, or without where there is none. Of Kubernetes' own
// resources that is known. Of others the agent knows: it calls such a question invalid,
// and then it is asked again.
func scoped(s subject, ask asking) error {
	if nameOf(s.resource).ClusterScoped() {
		s.namespace = ""
	}
	_, err := ask(s)
	if s.namespace == "" || !hasCode(err, codes.InvalidArgument) {
		return err
	}
	s.namespace = ""
	if source, again := ask(s); again != nil || source.GetNamespaced() {
		return err // it was invalid for another reason
	}
	return nil
}

func hasCode(err error, code codes.Code) bool {
	var said *kasapi.Error
	return errors.As(err, &said) && said.Code == code
}

// about is a query about another subject.
func about(q *clusterstate.Query, s subject) *clusterstate.Query {
	q = proto.CloneOf(q)
	q.Resource, q.Namespace = s.resource, s.namespace
	return q
}

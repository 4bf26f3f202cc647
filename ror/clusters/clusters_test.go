package clusters_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/clusters"
	"github.com/kas-agentk/kas/ror/fakekas"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var dev = registry.Agent{ID: 7, Name: "dev"}

// connected is a kas to which agent 7 is connected.
func connected() *fakekas.Kas {
	return &fakekas.Kas{Connected: []*railsrpc.ConnectedAgent{{AgentId: 7}}}
}

func list(resource, namespace string) *clusterstate.ListRequest {
	return &clusterstate.ListRequest{Query: &clusterstate.Query{Resource: &clusterstate.Resource{Resource: resource}, Namespace: namespace}}
}

func TestList_PutsThePartsTogether(t *testing.T) {
	kas := connected()
	kas.Parts = []*clusterstate.ListResponse{
		{
			Source: &clusterstate.Source{Kind: "Pod"}, Columns: []*clusterstate.Column{{Name: "Name"}},
			Items: []*clusterstate.Item{{Name: "a"}, {Name: "b"}},
		},
		{Items: []*clusterstate.Item{{Name: "c"}}, Continue: "more", Remaining: 4},
	}
	all, err := clusters.New(kas).List(t.Context(), dev, list("pods", "web"))
	require.NoError(t, err)
	require.Len(t, all.GetItems(), 3)
	require.Equal(t, "Pod", all.GetSource().GetKind())
	require.Len(t, all.GetColumns(), 1)
	require.Equal(t, "more", all.GetContinue())
	require.Equal(t, uint64(4), all.GetRemaining())
	asked := kas.Questions[0].(*railsrpc.ClusterListRequest)
	require.Equal(t, int64(7), asked.GetAgentId())
	require.Equal(t, "web", asked.GetRequest().GetQuery().GetNamespace())

	kas.Broken = &kasapi.Error{Code: codes.Unavailable, Message: "cut off"}
	_, err = clusters.New(kas).List(t.Context(), dev, list("pods", ""))
	require.EqualError(t, err, "cut off", "half an answer is none")
}

func TestList_BoundsWhatItKeeps(t *testing.T) {
	kas := connected()
	part := &clusterstate.ListResponse{Items: []*clusterstate.Item{{Json: make([]byte, 1<<20)}}}
	for range 64 {
		kas.Parts = append(kas.Parts, part)
	}
	_, err := clusters.New(kas).List(t.Context(), dev, list("pods", ""))
	var said *kasapi.Error
	require.ErrorAs(t, err, &said)
	require.Equal(t, 400, said.HTTPStatus())
	require.ErrorContains(t, err, "larger than 64 MiB: ask for less")
}

func TestClusters_TellAtOnceThatAnAgentIsAway(t *testing.T) {
	kas := &fakekas.Kas{}
	c := clusters.New(kas)
	for name, ask := range map[string]func() error{
		"get":  func() error { _, err := c.Get(t.Context(), dev, &clusterstate.GetRequest{}); return err },
		"list": func() error { _, err := c.List(t.Context(), dev, list("pods", "")); return err },
		"watch": func() error {
			return c.Watch(t.Context(), dev, &clusterstate.WatchRequest{}, func(*clusterstate.WatchResponse) error { return nil })
		},
	} {
		err := ask()
		var said *kasapi.Error
		require.ErrorAs(t, err, &said, name)
		require.Equal(t, 503, said.HTTPStatus(), name)
		require.EqualError(t, err, "agent dev is not connected", name)
	}
	require.Empty(t, kas.Questions)

	kas.Away = errors.New("down")
	kas.Broken = &kasapi.Error{Code: codes.Unavailable, Message: "kas cannot be reached"}
	_, err := c.List(t.Context(), dev, list("pods", ""))
	require.EqualError(t, err, "kas cannot be reached", "the question itself tells")
}

// choosy calls questions for a namespace invalid where the resource has none.
type choosy struct {
	*fakekas.Kas
	namespaced bool
}

var errInvalid = &kasapi.Error{Code: codes.InvalidArgument, Message: "widgets are in no namespace"}

func (k choosy) check(namespace string) (*clusterstate.Source, error) {
	if namespace != "" {
		return nil, errInvalid
	}
	return &clusterstate.Source{Kind: "Widget", Namespaced: k.namespaced}, nil
}

func (k choosy) ClusterGet(_ context.Context, r *railsrpc.ClusterGetRequest) (*clusterstate.GetResponse, error) {
	source, err := k.check(r.GetRequest().GetNamespace())
	return &clusterstate.GetResponse{Source: source}, err
}

func (k choosy) ClusterList(_ context.Context, r *railsrpc.ClusterListRequest, each func(*clusterstate.ListResponse) error) error {
	source, err := k.check(r.GetRequest().GetQuery().GetNamespace())
	if err != nil {
		return err
	}
	return each(&clusterstate.ListResponse{Source: source})
}

func (k choosy) ClusterWatch(_ context.Context, r *railsrpc.ClusterWatchRequest, each func(*clusterstate.WatchResponse) error) error {
	source, err := k.check(r.GetRequest().GetQuery().GetNamespace())
	if err != nil {
		return err
	}
	return each(&clusterstate.WatchResponse{Source: source})
}

func (k choosy) ListFleet(_ context.Context, r *railsrpc.ListFleetRequest, each func(*railsrpc.ListFleetResponse) error) error {
	for _, id := range r.GetAgentIds() {
		end := &railsrpc.FleetEnd{}
		source, err := k.check(r.GetRequest().GetQuery().GetNamespace())
		if err != nil && id == 7 { // the other agent's are in namespaces
			end.Code, end.Message = uint32(codes.InvalidArgument), err.Error()
		}
		if err := each(&railsrpc.ListFleetResponse{AgentId: id, Response: &clusterstate.ListResponse{Source: source}, End: end}); err != nil {
			return err
		}
	}
	return nil
}

func TestNamespace_MeansNothingWhereThereIsNone(t *testing.T) {
	c := clusters.New(choosy{Kas: connected()})
	req := list("widgets", "web")
	all, err := c.List(t.Context(), dev, req)
	require.NoError(t, err)
	require.Equal(t, "Widget", all.GetSource().GetKind())
	require.Equal(t, "web", req.GetQuery().GetNamespace(), "it is the caller's")
	one, err := c.Get(t.Context(), dev, &clusterstate.GetRequest{Namespace: "web", Name: "a"})
	require.NoError(t, err)
	require.Equal(t, "Widget", one.GetSource().GetKind())
	gone := errors.New("gone")
	told := 0
	require.ErrorIs(t, c.Watch(t.Context(), dev, &clusterstate.WatchRequest{Query: req.GetQuery()}, func(*clusterstate.WatchResponse) error {
		told++
		return gone
	}), gone)
	require.Equal(t, 1, told)
	answers, err := c.Fleet(t.Context(), []registry.Agent{dev, {ID: 8}}, req)
	require.NoError(t, err)
	require.Nil(t, answers[0].Err)
	require.Equal(t, "Widget", answers[0].List.GetSource().GetKind())
	require.Nil(t, answers[1].List.GetSource(), "where it means something, it does")

	namespaced := clusters.New(choosy{Kas: connected(), namespaced: true})
	_, err = namespaced.List(t.Context(), dev, req)
	require.ErrorIs(t, err, errInvalid, "it is never left out where there are namespaces")
	_, err = namespaced.Get(t.Context(), dev, &clusterstate.GetRequest{Namespace: "web"})
	require.ErrorIs(t, err, errInvalid)

	kas := connected()
	_, err = clusters.New(kas).List(t.Context(), dev, list("nodes", "web"))
	require.NoError(t, err)
	require.Len(t, kas.Questions, 1)
	require.Empty(t, kas.Questions[0].(*railsrpc.ClusterListRequest).GetRequest().GetQuery().GetNamespace(), "of some it is known")
}

// custom serves widgets of some groups.
type custom struct {
	*fakekas.Kas
	definitions []string
	asked       []string
}

func (k *custom) ClusterList(_ context.Context, r *railsrpc.ClusterListRequest, each func(*clusterstate.ListResponse) error) error {
	name := r.GetRequest().GetQuery().GetResource()
	k.asked = append(k.asked, name.GetResource()+"."+name.GetGroup())
	res := &clusterstate.ListResponse{Source: &clusterstate.Source{Kind: name.GetGroup()}}
	if name.GetResource() == "customresourcedefinitions" {
		for _, d := range k.definitions {
			res.Items = append(res.Items, &clusterstate.Item{Name: d})
		}
	} else if name.GetGroup() == "" {
		return &kasapi.Error{Code: codes.NotFound, Message: "serves no " + name.GetResource()}
	}
	return each(res)
}

func TestCustomResource_IsFoundWithoutItsGroup(t *testing.T) {
	kas := &custom{Kas: connected(), definitions: []string{"gadgets.example.com", "widgets.example.com", "mywidgets.example.org"}}
	c := clusters.New(kas)
	all, err := c.List(t.Context(), dev, list("widgets", "web"))
	require.NoError(t, err)
	require.Equal(t, "example.com", all.GetSource().GetKind())

	kas.definitions = append(kas.definitions, "widgets.other.example")
	_, err = c.List(t.Context(), dev, list("widgets", ""))
	require.EqualError(t, err, "there are several of this name: ask for one of widgets.example.com, widgets.other.example")
	_, err = c.List(t.Context(), dev, list("sprockets", ""))
	require.EqualError(t, err, "serves no sprockets")

	kas.asked = nil
	_, err = c.List(t.Context(), dev, list("pods", ""))
	require.EqualError(t, err, "serves no pods")
	require.Equal(t, []string{"pods."}, kas.asked, "what is no custom resource is not looked for")
}

func part(agent int64, names ...string) *railsrpc.ListFleetResponse {
	res := &clusterstate.ListResponse{}
	for _, name := range names {
		res.Items = append(res.Items, &clusterstate.Item{Name: name})
	}
	return &railsrpc.ListFleetResponse{AgentId: agent, Response: res}
}

func end(agent int64, code codes.Code, message string) *railsrpc.ListFleetResponse {
	return &railsrpc.ListFleetResponse{AgentId: agent, End: &railsrpc.FleetEnd{Code: uint32(code), Message: message}}
}

func TestFleet_TellsWhoDidNotAnswer(t *testing.T) {
	agents := []registry.Agent{{ID: 1}, {ID: 2}, {ID: 3}}
	kas := &fakekas.Kas{}
	c := clusters.New(kas)
	for _, row := range []struct {
		name   string
		fleet  []*railsrpc.ListFleetResponse
		broken error
		want   []string
		err    string
	}{
		{
			"all in any order", []*railsrpc.ListFleetResponse{
				part(3, "c"), part(1, "a"), end(3, 0, ""), part(1, "b"), end(2, 0, ""), end(1, 0, ""), part(99, "nobody asked"), part(1, "too late"),
			}, nil, []string{"a b", "", "c"}, "",
		},
		{
			"half an answer is none", []*railsrpc.ListFleetResponse{
				part(1, "a"), end(1, 0, ""), part(2, "b"), end(2, codes.Unavailable, "agent 2 is not connected"), end(3, 0, ""),
			}, nil, []string{"a", "!agent 2 is not connected", ""}, "",
		},
		{
			"one that is forgotten is named", []*railsrpc.ListFleetResponse{end(1, 0, ""), end(2, 0, "")}, nil,
			[]string{"", "", "!it did not answer"}, "",
		},
		{
			"what kas broke off is named", []*railsrpc.ListFleetResponse{part(2, "b"), end(1, 0, "")},
			&kasapi.Error{Code: codes.Unavailable, Message: "kas ended"}, []string{"", "!kas ended", "!kas ended"}, "",
		},
		{"nobody answered", nil, &kasapi.Error{Code: codes.Unavailable, Message: "kas cannot be reached"}, nil, "kas cannot be reached"},
	} {
		t.Run(row.name, func(t *testing.T) {
			kas.Fleet, kas.Broken = row.fleet, row.broken
			answers, err := c.Fleet(t.Context(), agents, list("pods", ""))
			if row.err != "" {
				require.EqualError(t, err, row.err)
				return
			}
			require.NoError(t, err)
			var got []string
			for i, a := range answers {
				require.Equal(t, agents[i].ID, a.Agent.ID)
				if a.Err != nil {
					require.Nil(t, a.List)
					got = append(got, "!"+a.Err.Message)
					continue
				}
				var names []string
				for _, item := range a.List.GetItems() {
					names = append(names, item.GetName())
				}
				got = append(got, strings.Join(names, " "))
			}
			require.Equal(t, row.want, got)
		})
	}
	answers, err := c.Fleet(t.Context(), nil, list("pods", ""))
	require.NoError(t, err)
	require.Empty(t, answers, "nobody is not everybody")
}

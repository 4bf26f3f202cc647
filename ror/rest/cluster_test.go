package rest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
	"github.com/kas-agentk/kas/ror/rest"
)

const clusterState = "/projects/root%2Fapp/cluster_agents/1/cluster_state"

func newCluster(t *testing.T) *house {
	t.Helper()
	h := newAgent(t)
	h.beside.Connected = []*railsrpc.ConnectedAgent{{AgentId: 1}}
	return h
}

func source() *clusterstate.Source {
	return &clusterstate.Source{
		ResourceVersion: "12", CurrentAt: timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)), Version: "v1", Kind: "Deployment", Namespaced: true,
	}
}

const sourceJSON = `{"resource_version":"12","current_at":"2026-11-22T10:00:00Z","version":"v1","kind":"Deployment","namespaced":true}`

func TestClusterState_ListsTables(t *testing.T) {
	h := newCluster(t)
	h.beside.Parts = []*clusterstate.ListResponse{
		{
			Source: source(), Columns: []*clusterstate.Column{{Name: "Name", Type: "string", Format: "name"}, {Name: "Images", Priority: 1}},
			Items: []*clusterstate.Item{{Namespace: "web", Name: "shop", Uid: "u", ResourceVersion: "7", Created: 1700000000, Cells: []string{"shop", "<b>"}}},
		},
		{Continue: "next", Remaining: 3},
	}
	require.JSONEq(t, `{"source":`+sourceJSON+`,"columns":[{"name":"Name","type":"string","format":"name"},{"name":"Images","priority":1}],
		"items":[{"namespace":"web","name":"shop","uid":"u","resource_version":"7","created_at":"2023-11-14T22:13:20.000Z","cells":["shop","<b>"]}],
		"continue":"next","remaining":3}`,
		h.must("root", "GET", clusterState+"/deploy?shape=table&namespace=web&label_selector=app%3Dshop&field_selector=metadata.name%3Dshop&limit=1&continue=x", ""))
	require.True(t, proto.Equal(&railsrpc.ClusterListRequest{AgentId: 1, Request: &clusterstate.ListRequest{
		Query: &clusterstate.Query{
			Resource: &clusterstate.Resource{Group: "apps", Resource: "deployments"}, Namespace: "web", LabelSelector: "app=shop",
			FieldSelector: "metadata.name=shop", Shape: clusterstate.Shape_SHAPE_TABLE,
		},
		Limit: 1, Continue: "x",
	}}, h.beside.Questions[0]), h.beside.Questions[0])
}

func TestClusterState_ShowsObjectsAsTheyAre(t *testing.T) {
	h := newCluster(t)
	h.beside.Object = &clusterstate.GetResponse{
		Source: source(), Item: &clusterstate.Item{Namespace: "web", Name: "a:b", Json: []byte(`{"kind": "Deployment", "spec": {"replicas": 9007199254740993}}`)},
	}
	require.JSONEq(t, `{"source":`+sourceJSON+`,"item":{"namespace":"web","name":"a:b","uid":"","resource_version":"","created_at":"1970-01-01T00:00:00.000Z",
		"object":{"kind":"Deployment","spec":{"replicas":9007199254740993}}}}`,
		h.must("root", "GET", clusterState+"/widgets/a:b?namespace=web&group=example.com&version=v1beta1", ""))
	require.True(t, proto.Equal(&railsrpc.ClusterGetRequest{AgentId: 1, Request: &clusterstate.GetRequest{
		Resource: &clusterstate.Resource{Group: "example.com", Version: "v1beta1", Resource: "widgets"}, Namespace: "web", Name: "a:b",
		Shape: clusterstate.Shape_SHAPE_OBJECT,
	}}, h.beside.Questions[0]), h.beside.Questions[0])

	h.beside.Parts = []*clusterstate.ListResponse{{Source: source()}}
	require.JSONEq(t, `{"source":`+sourceJSON+`,"items":[],"continue":"","remaining":0}`, h.must("root", "GET", clusterState+"/pods?shape=metadata", ""))
}

func TestClusterState_IsRefused(t *testing.T) {
	for _, row := range []struct {
		name, who, path string
		broken          error
		code            int
		message         string
	}{
		{"a strange shape", "root", "/pods?shape=round", nil, 400, "shape is invalid: want object, metadata or table"},
		{"a strange limit", "root", "/pods?limit=-1", nil, 400, "limit is invalid: want a number"},
		{"a strange watch", "root", "/pods?watch=maybe", nil, 400, "watch is invalid: want true or false"},
		{"a strange resource", "root", "/po%20ds", nil, 400, `resource is invalid: "po ds" does not name a resource: want for example pods, deployments.apps or widgets.example.com`},
		{"a strange group", "root", "/pods?group=a/b", nil, 400, `resource is invalid: "pods.a/b" does not name a resource: want for example pods, deployments.apps or widgets.example.com`},
		{"who may not see the agent", "ada", "/pods", nil, 404, "404 Project Not Found"},
		{"an object that is not there", "root", "/pods/x", &kasapi.Error{Code: codes.NotFound, Message: "no such pod"}, 404, "404 Not Found - no such pod"},
		{"what agentk may not list", "root", "/secrets", &kasapi.Error{Code: codes.PermissionDenied, Message: "grant it list"}, 403, "403 Forbidden - grant it list"},
		{"a selector that makes no sense", "root", "/pods?label_selector=%3D", &kasapi.Error{Code: codes.InvalidArgument, Message: "label_selector"}, 400, "label_selector"},
		{"an agent that went away", "root", "/pods", &kasapi.Error{Code: codes.Unavailable, Message: "away"}, 503, "503 Service Unavailable - away"},
		{"a watch of one that went away", "root", "/pods?watch=true", &kasapi.Error{Code: codes.Unavailable, Message: "away"}, 503, "503 Service Unavailable - away"},
		{"an agent that is silent", "root", "/pods", &kasapi.Error{Code: codes.DeadlineExceeded, Message: "silent"}, 504, "504 Gateway Timeout - silent"},
		{"an agent that is too old", "root", "/pods", &kasapi.Error{Code: codes.Unimplemented, Message: "upgrade"}, 502, "502 Bad Gateway - upgrade"},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := newCluster(t)
			h.beside.Broken = row.broken
			code, answer := h.do(row.who, "GET", clusterState+row.path, "")
			require.Equal(t, row.code, code, answer)
			require.JSONEq(t, fmt.Sprintf(`{"message":%q}`, row.message), answer)
		})
	}
	h := newAgent(t)
	code, answer := h.do("root", "GET", clusterState+"/pods", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.JSONEq(t, `{"message":"503 Service Unavailable - agent dev is not connected"}`, answer)
}

func TestClusterState_IsForThoseWhoSeeTheAgent(t *testing.T) {
	h := newCluster(t)
	for level, want := range map[registry.AccessLevel]int{registry.Reporter: 403, registry.Developer: 200} {
		_, err := h.reg.SetMember(t.Context(), 1, 2, level)
		require.NoError(t, err)
		for _, path := range []string{"/pods", "/pods/x"} {
			code, answer := h.do("ada", "GET", clusterState+path, "")
			require.Equal(t, want, code, answer)
		}
	}
}

// watch begins a watch as root; its lines come as they are sent.
func (h *house) watch(ctx context.Context, path string) (*http.Response, func() string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, http.NoBody)
	require.NoError(h.t, err)
	require.True(h.t, rest.IsStream(r))
	r.Header.Set("PRIVATE-TOKEN", h.tokens["root"])
	res, err := http.DefaultClient.Do(r)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = res.Body.Close() })
	lines := bufio.NewReader(res.Body)
	return res, func() string {
		h.t.Helper()
		line, err := lines.ReadString('\n')
		require.NoError(h.t, err)
		return line
	}
}

func TestClusterState_WatchesInLines(t *testing.T) {
	h := newCluster(t)
	news := make(chan *clusterstate.WatchResponse)
	h.beside.News = news
	h.beside.Watched = []*clusterstate.WatchResponse{{
		Source: source(), Reset_: true, Synced: true, Cursor: "c1",
		Events: []*clusterstate.Event{{Type: clusterstate.EventType_EVENT_TYPE_ADDED, Item: &clusterstate.Item{Name: "a", Json: []byte(`{"a":1}`)}}},
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, line := h.watch(ctx, clusterState+"/pods?watch=true&cursor=c0") //nolint:bodyclose // watch does
	require.Equal(t, "application/x-ndjson", res.Header.Get("Content-Type"))
	const item = `"uid":"","resource_version":"","created_at":"1970-01-01T00:00:00.000Z"`
	require.JSONEq(t, `{"source":`+sourceJSON+`,"reset":true,"synced":true,"cursor":"c1","events":[
		{"type":"ADDED","item":{"name":"a",`+item+`,"object":{"a":1}}}]}`, line())
	require.Equal(t, "c0", h.beside.Questions[0].(*railsrpc.ClusterWatchRequest).GetRequest().GetCursor())
	news <- &clusterstate.WatchResponse{
		Cursor: "c2", Events: []*clusterstate.Event{{Type: clusterstate.EventType_EVENT_TYPE_DELETED, Item: &clusterstate.Item{Name: "a"}}},
	}
	require.JSONEq(t, `{"cursor":"c2","events":[{"type":"DELETED","item":{"name":"a",`+item+`}}]}`, line())
}

func TestClusterState_AWatchSaysWhyItEnds(t *testing.T) {
	h := newCluster(t)
	h.beside.Watched = []*clusterstate.WatchResponse{{Cursor: "c1"}}
	h.beside.Broken = &kasapi.Error{Code: codes.Unavailable, Message: "kas ended"}
	res, line := h.watch(t.Context(), clusterState+"/pods?watch=1") //nolint:bodyclose // watch does
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.JSONEq(t, `{"cursor":"c1","events":[]}`, line())
	require.JSONEq(t, `{"error":{"status":503,"message":"kas ended"}}`, line())
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Empty(t, rest)
}

func TestFleet_AsksTheAgentsThatTheUserMaySee(t *testing.T) {
	h := newCluster(t)
	require.JSONEq(t, `{"agents":[]}`, h.must("ada", "GET", "/cluster_state/pods", ""))
	require.Empty(t, h.beside.Questions)
	h.must("root", "POST", "/projects/1/cluster_agents", `{"name":"prod"}`)
	h.beside.Fleet = []*railsrpc.ListFleetResponse{
		{AgentId: 2, End: &railsrpc.FleetEnd{Code: uint32(codes.Unavailable), Message: "agent 2 is not connected"}},
		{AgentId: 1, Response: &clusterstate.ListResponse{Source: source(), Items: []*clusterstate.Item{{Name: "a"}}}, End: &railsrpc.FleetEnd{}},
	}
	const project = `"config_project":{"id":1,"description":"","name":"app","name_with_namespace":"root / app","path":"app",
		"path_with_namespace":"root/app","created_at":"2026-11-22T10:00:00.000Z"}`
	require.JSONEq(t, `{"agents":[
		{"id":1,"name":"dev",`+project+`,"error":null,"source":`+sourceJSON+`,"continue":"","remaining":0,
			"items":[{"name":"a","uid":"","resource_version":"","created_at":"1970-01-01T00:00:00.000Z"}]},
		{"id":2,"name":"prod",`+project+`,"error":{"status":503,"message":"agent 2 is not connected"}}]}`,
		h.must("root", "GET", "/cluster_state/po?shape=table&limit=5", ""))
	asked := h.beside.Questions[0].(*railsrpc.ListFleetRequest)
	require.Equal(t, []int64{1, 2}, asked.GetAgentIds())
	require.Equal(t, uint32(5), asked.GetRequest().GetLimit())

	code, answer := h.do("root", "GET", "/cluster_state/pods?watch=true", "")
	require.Equal(t, http.StatusBadRequest, code, answer)
}

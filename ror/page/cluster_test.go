package page_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/page"
)

const clusterPage = agentPage + "/cluster"

// pods is what an agent answers two seconds before the page's now.
func pods() []*clusterstate.ListResponse {
	return []*clusterstate.ListResponse{{
		Source: &clusterstate.Source{Kind: "Pod", Version: "v1", Namespaced: true, CurrentAt: timestamppb.New(start.Add(-2 * time.Second))},
		Columns: []*clusterstate.Column{
			{Name: "Name", Description: "Name must be \"unique\"."}, {Name: "Status"}, {Name: "IP", Priority: 1},
		},
		Items: []*clusterstate.Item{
			{Namespace: "web", Name: "shop-1", Cells: []string{"shop-1", "Running", "10.0.0.1"}},
			{Namespace: "<b>", Name: "x", Cells: []string{"<script>alert(1)</script>", "javascript:alert(1)", ""}},
			{Namespace: "web", Name: "short", Cells: []string{"short"}},
		},
		Continue: "abc/d=", Remaining: 9,
	}}
}

func newCluster(t *testing.T) (*house, *browser) {
	t.Helper()
	h := newHouse(t)
	h.beside.Connected = []*railsrpc.ConnectedAgent{{AgentId: 1}}
	b, _ := h.signIn("root")
	return h, b
}

func TestCluster_ShowsATable(t *testing.T) {
	h, b := newCluster(t)
	h.beside.Parts = pods()
	res, body := b.get(clusterPage)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, body, `<script src="/-/assets/live.js" defer></script>`)
	golden(t, "cluster", body)
	require.True(t, proto.Equal(&railsrpc.ClusterListRequest{AgentId: 1, Request: &clusterstate.ListRequest{
		Query: &clusterstate.Query{Resource: &clusterstate.Resource{Resource: "pods"}, Shape: clusterstate.Shape_SHAPE_TABLE}, Limit: 500,
	}}, h.beside.Questions[0]), h.beside.Questions[0])

	_, body = b.get(clusterPage + "?resource=deploy&namespace=+web&selector=app%3Dshop&wide=yes&continue=abc")
	golden(t, "cluster-wide", body)
	require.True(t, proto.Equal(&railsrpc.ClusterListRequest{AgentId: 1, Request: &clusterstate.ListRequest{
		Query: &clusterstate.Query{
			Resource: &clusterstate.Resource{Group: "apps", Resource: "deployments"}, Namespace: "web", LabelSelector: "app=shop",
			Shape: clusterstate.Shape_SHAPE_TABLE,
		},
		Limit: 500, Continue: "abc",
	}}, h.beside.Questions[1]), h.beside.Questions[1])
}

func TestCluster_SaysInWordsWhatThereIs(t *testing.T) {
	away := &kasapi.Error{Code: codes.Unavailable, Message: "kas cannot be reached"}
	for _, row := range []struct {
		name, query string
		connected   bool
		answer      *clusterstate.ListResponse
		broken      error
		says        string
	}{
		{"nothing", "?resource=pods&namespace=web", true, &clusterstate.ListResponse{Source: &clusterstate.Source{Namespaced: true}}, nil, "<p>There are no pods in namespace web. "},
		{"nothing that is selected", "?selector=a%3D%3Cb%3E", true, &clusterstate.ListResponse{}, nil, "<p>There are no pods with a=&lt;b&gt;. "},
		{"news that are old", "", true, &clusterstate.ListResponse{Source: &clusterstate.Source{CurrentAt: timestamppb.New(start.Add(-3 * time.Minute))}}, nil, "The agent last heard of the API server 3 min ago: what has changed since may be missing."},
		{"news of a clock that is ahead", "", true, &clusterstate.ListResponse{Source: &clusterstate.Source{CurrentAt: timestamppb.New(start.Add(time.Hour))}}, nil, "As of just now."},
		{"no Secret's values", "?resource=secret", true, &clusterstate.ListResponse{}, nil, "The values of Secrets are not shown here."},
		{"an agent that is away", "", false, nil, nil, "Agent dev is not connected. What is in the cluster is not known until it answers; this page asks again by itself."},
		{"a kas that is away", "", true, nil, away, "Kas cannot be reached. What is in"},
		{"what agentk may not list", "?resource=secrets", true, nil, &kasapi.Error{Code: codes.PermissionDenied, Message: "agentk's service account may not list secrets: grant it"}, "Agentk&#39;s service account may not list secrets: grant it."},
		{"a resource that is not served", "?resource=widgets", true, nil, &kasapi.Error{Code: codes.NotFound, Message: "the API server serves no widgets"}, "The API server serves no widgets.</p>"},
		{"no name of a resource", "?resource=%22%3E%3Cscript%3E", true, nil, nil, "does not name a resource: want for example pods"},
		{"a selector that makes no sense", "?selector=%3D", true, nil, &kasapi.Error{Code: codes.InvalidArgument, Message: `label_selector "=" cannot be read`}, "Label_selector &#34;=&#34; cannot be read."},
		{"an agent that is too old", "", true, nil, &kasapi.Error{Code: codes.Unimplemented, Message: "upgrade its agentk"}, "Upgrade its agentk."},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, b := newCluster(t)
			if !row.connected {
				h.beside.Connected = nil
			}
			if row.answer != nil {
				h.beside.Parts = []*clusterstate.ListResponse{row.answer}
			}
			h.beside.Broken = row.broken
			res, body := b.get(clusterPage + row.query)
			require.Equal(t, http.StatusOK, res.StatusCode, "the page renews itself")
			require.Contains(t, body, row.says)
			require.Contains(t, body, `id="resource"`, "another question can be asked")
			require.NotContains(t, body, "<script>")
		})
	}
}

func TestObject_IsShownWithoutSecrets(t *testing.T) {
	h, b := newCluster(t)
	h.beside.Object = &clusterstate.GetResponse{
		Source: &clusterstate.Source{CurrentAt: timestamppb.New(start.Add(-time.Hour))},
		Item: &clusterstate.Item{Json: []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a:b","annotations":{"x":"<script>","kubectl.kubernetes.io/last-applied-configuration":"topsecret"}},
			"data":{"password":"dG9wc2VjcmV0"},"stringData":{"other":"topsecret"},"type":"Opaque","n":9007199254740993}`)},
	}
	res, body := b.get(clusterPage + "/object?resource=secret&namespace=web&name=a:b")
	require.Equal(t, http.StatusOK, res.StatusCode)
	golden(t, "object", body)
	require.NotContains(t, body, "topsecret")
	require.NotContains(t, body, "dG9wc2VjcmV0")
	require.True(t, proto.Equal(&railsrpc.ClusterGetRequest{AgentId: 1, Request: &clusterstate.GetRequest{
		Resource: &clusterstate.Resource{Resource: "secrets"}, Namespace: "web", Name: "a:b", Shape: clusterstate.Shape_SHAPE_OBJECT,
	}}, h.beside.Questions[0]), h.beside.Questions[0])

	h.beside.Broken = &kasapi.Error{Code: codes.NotFound, Message: `secrets "a" not found in namespace "web"`}
	_, body = b.get(clusterPage + "/object?resource=secrets&namespace=web&name=a")
	require.Contains(t, body, "Secrets &#34;a&#34; not found in namespace &#34;web&#34;.")
	res, _ = b.get(clusterPage + "/object?resource=secrets")
	require.Equal(t, http.StatusNotFound, res.StatusCode)

	h.beside.Broken, h.beside.Object.Item.Json = nil, []byte("no JSON")
	res, _ = b.get(clusterPage + "/object?resource=cm&name=a")
	require.Equal(t, http.StatusInternalServerError, res.StatusCode)
}

func TestCluster_IsForThoseWhoSeeTheAgent(t *testing.T) {
	h, _ := newCluster(t)
	ada, _ := h.signIn("ada")
	for _, path := range []string{clusterPage, clusterPage + "/changes", clusterPage + "/object?name=x"} {
		res, _ := ada.get(path)
		require.Equal(t, http.StatusNotFound, res.StatusCode, path)
	}
	require.Empty(t, h.beside.Questions)
	root, _ := h.signIn("root")
	res, _ := root.get(clusterPage + "/other")
	require.Equal(t, http.StatusNotFound, res.StatusCode)
}

func TestCluster_TellsOfChangesAsTheyHappen(t *testing.T) {
	h, b := newCluster(t)
	news := make(chan *clusterstate.WatchResponse)
	h.beside.News = news
	changed := []*clusterstate.Event{{Item: &clusterstate.Item{Name: "a"}}}
	h.beside.Watched = []*clusterstate.WatchResponse{{Reset_: true, Events: changed}, {Synced: true, Events: changed}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+clusterPage+"/changes?resource=deploy&namespace=web", http.NoBody)
	require.NoError(t, err)
	require.True(t, page.IsStream(r))
	res, err := b.client.Do(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	require.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'none'")
	lines := bufio.NewReader(res.Body)
	event := func() string {
		t.Helper()
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		_, err = lines.ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(line)
	}
	require.Equal(t, ": nothing new", event(), "what there was is on the page")
	require.Equal(t, "data: changed", event(), "it may have changed since the page was made")
	news <- &clusterstate.WatchResponse{Events: changed}
	require.Equal(t, "data: changed", event())
	news <- &clusterstate.WatchResponse{Cursor: "only"}
	require.Equal(t, ": nothing new", event())
	asked := h.beside.Questions[0].(*railsrpc.ClusterWatchRequest).GetRequest().GetQuery()
	require.Equal(t, "deployments", asked.GetResource().GetResource())
	require.Equal(t, "web", asked.GetNamespace())

	h.beside.Connected = nil
	again, _ := b.get(clusterPage + "/changes")
	require.Equal(t, http.StatusServiceUnavailable, again.StatusCode, "browsers stop asking then, and the page asks")
}

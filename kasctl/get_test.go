package kasctl

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"
)

// clusterRoR is a RoR whose answers about clusters a test gives.
type clusterRoR struct {
	mu sync.Mutex
	// asked is what it was asked for: path and query.
	asked []string
	// answers by path and, where there are several, one after another.
	answers map[string][]answer
}

type answer struct {
	code int
	body string
	// hold keeps the connection open until the client leaves.
	hold bool
}

const (
	ofSandbox = "/api/v4/projects/4/cluster_agents/1/cluster_state"
	listOf    = `{"source":{"resource_version":"9","current_at":"1970-01-01T00:00:00Z","version":"v1","kind":%q,"namespaced":%t},"columns":[{"name":"Name","type":"string"},{"name":"Status"},{"name":"Age"},{"name":"Node","priority":1}],%s}`
	podItems  = `"items":[{"namespace":"default","name":"shop-1","resource_version":"1","cells":["shop-1","Running","5m","node-1"]},
		{"namespace":"web","name":"a","resource_version":"2","cells":["a","Cra\u001bshLoop\nBackOff","2d","<none>"]}],"continue":"","remaining":0`
)

var podList = fmt.Sprintf(listOf, "Pod", true, podItems)

func (r *clusterRoR) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	query, _ := url.QueryUnescape(req.URL.RawQuery)
	r.asked = append(r.asked, strings.TrimPrefix(req.URL.EscapedPath(), "/api/v4/")+"?"+query)
	queue := r.answers[req.URL.EscapedPath()]
	a := answer{404, `{"message":"404 Not found"}`, false}
	if len(queue) > 0 {
		a = queue[0]
		if len(queue) > 1 {
			r.answers[req.URL.EscapedPath()] = queue[1:]
		}
	}
	r.mu.Unlock()
	w.WriteHeader(a.code)
	_, _ = w.Write([]byte(a.body))
	if a.hold {
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	}
}

func (r *clusterRoR) questions() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked[1:]...) // the first is for the agents
}

func startClusterRoR(t *testing.T, answers map[string][]answer) *clusterRoR {
	t.Helper()
	r := &clusterRoR{answers: answers}
	answers["/api/v4/cluster_agents"] = []answer{{200, `[{"id":1,"name":"sandbox","config_project":{"id":4,"path_with_namespace":"demo/agents"}}]`, false}}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	t.Setenv("ROR_URL", srv.URL)
	t.Setenv("ROR_TOKEN", "glpat-1")
	return r
}

func TestGet_PrintsAsKubectlDoes(t *testing.T) {
	object := `{"metadata":{"name":"shop-1"},"kind":"Pod","apiVersion":"v1"}`
	items := `"items":[{"name":"shop-1","object":` + object + `}],"continue":"","remaining":0`
	for _, row := range []struct {
		name   string
		args   []string
		path   string
		body   string
		asked  string
		stdout string
		stderr string
	}{
		{
			"a table of one namespace", []string{"po"}, "/pods", podList, "/pods?namespace=default&shape=table",
			"NAME     STATUS               AGE\nshop-1   Running              5m\na        Cra shLoop BackOff   2d\n", "",
		},
		{
			"all namespaces", []string{"pods", "-A"}, "/pods", podList, "/pods?shape=table",
			"NAMESPACE   NAME     STATUS               AGE\ndefault     shop-1   Running              5m\nweb         a        Cra shLoop BackOff   2d\n", "",
		},
		{
			"all columns, no header", []string{"pods", "-n", "x", "-o", "wide", "--no-headers", "-l", "a=b", "--field-selector", "c=d"}, "/pods", podList,
			"/pods?field_selector=c=d&label_selector=a=b&namespace=x&shape=table",
			"shop-1   Running              5m    node-1\na        Cra shLoop BackOff   2d    <none>\n", "",
		},
		{
			"names", []string{"deploy.apps", "-o", "name"}, "/deployments", fmt.Sprintf(listOf, "Deployment", true, `"items":[{"name":"shop"}]`),
			"/deployments?group=apps&namespace=default&shape=table", "deployment.apps/shop\n", "",
		},
		{
			"whole objects", []string{"pods", "-o", "yaml"}, "/pods", fmt.Sprintf(listOf, "Pod", true, items), "/pods?limit=500&namespace=default&shape=object",
			"apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: shop-1\nkind: List\n", "",
		},
		{
			"nothing", []string{"pods", "-n", "web"}, "/pods", fmt.Sprintf(listOf, "Pod", true, `"items":[]`), "/pods?namespace=web&shape=table",
			"", "No resources found in web namespace.\n",
		},
		{
			"nothing as JSON", []string{"pods", "-o", "json"}, "/pods", fmt.Sprintf(listOf, "Pod", true, `"items":[]`), "/pods?limit=500&namespace=default&shape=object",
			"{\n  \"apiVersion\": \"v1\",\n  \"items\": [],\n  \"kind\": \"List\"\n}\n", "",
		},
		{
			"what has no namespace", []string{"nodes"}, "/nodes", fmt.Sprintf(listOf, "Node", false, `"items":[]`), "/nodes?shape=table", "", "No resources found.\n",
		},
		{
			"one object", []string{"pod", "shop-1"}, "/pods/shop-1", fmt.Sprintf(listOf, "Pod", true, `"item":{"name":"shop-1","cells":["shop-1","Running","5m"]}`),
			"/pods/shop-1?namespace=default&shape=table", "NAME     STATUS    AGE\nshop-1   Running   5m\n", "",
		},
		{
			"one object as it is", []string{"po/shop-1", "-o", "json"}, "/pods/shop-1",
			fmt.Sprintf(listOf, "Pod", true, `"item":{"name":"shop-1","object":{"kind":"Pod","n":9007199254740993}}`),
			"/pods/shop-1?namespace=default&shape=object", "{\n  \"kind\": \"Pod\",\n  \"n\": 9007199254740993\n}\n", "",
		},
		{
			"a Secret", []string{"secret", "a:b", "-o", "json"}, "/secrets/a:b",
			`{"source":{"redacted":true},"item":{"object":{}}}`, "/secrets/a:b?namespace=default&shape=object", "{}\n", "The values of Secrets are left out.\n",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startClusterRoR(t, map[string][]answer{ofSandbox + row.path: {{200, row.body, false}}})
			status, stdout, stderr := call(t, append([]string{"get", "sandbox"}, row.args...)...)
			require.Zero(t, status, stderr)
			require.Equal(t, []string{strings.TrimPrefix(ofSandbox, "/api/v4/") + row.asked}, ror.questions())
			require.Equal(t, row.stdout, stdout)
			require.Equal(t, row.stderr, stderr)
		})
	}
}

func TestGet_AsksForManyObjectsInSteps(t *testing.T) {
	first := `{"source":{},"items":[{"object":{"a":1}}],"continue":"n/x","remaining":1}`
	second := `{"source":{},"items":[{"object":{"a":2}}],"continue":"","remaining":0}`
	ror := startClusterRoR(t, map[string][]answer{ofSandbox + "/configmaps": {{200, first, false}, {200, second, false}}})
	status, stdout, stderr := call(t, "get", "1", "cm", "-A", "-o", "yaml")
	require.Zero(t, status, stderr)
	require.Equal(t, "apiVersion: v1\nitems:\n- a: 1\n- a: 2\nkind: List\n", stdout)
	require.Contains(t, ror.questions()[1], "continue=n/x&limit=500&shape=object")
}

func TestGet_SaysThatNewsAreOld(t *testing.T) {
	startClusterRoR(t, map[string][]answer{ofSandbox + "/pods": {{200, podList, false}}})
	status, stdout, stderr := callWith(t, t.Context(), clocktesting.NewFakeClock(time.Unix(200, 0)), "get", "1", "pods")
	require.Zero(t, status)
	require.Contains(t, stdout, "shop-1")
	require.Equal(t, "As of 3m20s ago: the agent has not heard of the API server since.\n", stderr)
}

func TestGet_SaysWhatToDo(t *testing.T) {
	for _, row := range []struct {
		name   string
		args   []string
		answer answer
		status int
		stderr string
	}{
		{"no resource", []string{"sandbox"}, answer{}, 2, "name an agent and a resource"},
		{"too much", []string{"--all-agents", "pods", "a", "b"}, answer{}, 2, "and no agent"},
		{"no name of a resource", []string{"1", "po ds"}, answer{}, 2, `"po ds" does not name a resource`},
		{"two names", []string{"1", "po/a", "b"}, answer{}, 2, "name the object once"},
		{"two namespaces", []string{"1", "po", "-A", "-n", "x"}, answer{}, 2, "exclude each other"},
		{"a name in all namespaces", []string{"1", "po", "a", "-A"}, answer{}, 2, "use --field-selector metadata.name=NAME"},
		{"a name and a selector", []string{"1", "po", "a", "-l", "x=y"}, answer{}, 2, "a selector has no effect"},
		{"a watch of all", []string{"--all-agents", "po", "-w"}, answer{}, 2, "exclude each other"},
		{"a strange format", []string{"1", "po", "-o", "xml"}, answer{}, 2, `--output "xml": want one of table, wide, json, yaml, name`},
		{"an unknown agent", []string{"other", "po"}, answer{}, 1, `no agent "other": there are demo/agents:sandbox`},
		{"an object that is not there", []string{"1", "po", "a"}, answer{404, `{"message":"404 Not Found - pods \"a\" not found"}`, false}, 1, `kasctl: get pods of demo/agents:sandbox: pods "a" not found` + "\n"},
		{"a resource that nobody knows", []string{"1", "widgets"}, answer{404, `{"message":"404 Not Found - serves no widgets"}`, false}, 1, "demo/agents:sandbox: serves no widgets\n"},
		{"what agentk may not list", []string{"1", "po"}, answer{403, `{"message":"403 Forbidden - grant it list"}`, false}, 1, "demo/agents:sandbox: grant it list\n"},
		{"what the user may not see", []string{"1", "po"}, answer{403, `{"message":"403 Forbidden"}`, false}, 1, "your user may not see this (403): 403 Forbidden\n"},
		{"a selector that makes no sense", []string{"1", "po", "-l", "="}, answer{400, `{"message":"label_selector \"=\" cannot be read"}`, false}, 1, `demo/agents:sandbox: label_selector "=" cannot be read` + "\n"},
		{"an agent that is away", []string{"1", "po"}, answer{503, `{"message":"503 Service Unavailable - agent sandbox is not connected"}`, false}, 1, "demo/agents:sandbox: agent sandbox is not connected\n"},
		{"a watch of one that is away", []string{"1", "po", "-w"}, answer{503, `{"message":"503 Service Unavailable - agent sandbox is not connected"}`, false}, 1, "demo/agents:sandbox: agent sandbox is not connected\n"},
		{"RoR in trouble", []string{"1", "po"}, answer{502, `<html>`, false}, 1, "is in trouble (502 Bad Gateway), try again"},
		{"an answer that is none", []string{"1", "po"}, answer{200, `[]`, false}, 1, "answer about the cluster: json"},
	} {
		t.Run(row.name, func(t *testing.T) {
			startClusterRoR(t, map[string][]answer{
				ofSandbox + "/pods": {row.answer}, ofSandbox + "/pods/a": {row.answer}, ofSandbox + "/widgets": {row.answer},
			})
			status, stdout, stderr := call(t, append([]string{"get"}, row.args...)...)
			require.Equal(t, row.status, status, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, row.stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line")
		})
	}
}

const fleetAnswer = `{"agents":[
	{"id":2,"name":"west","config_project":{"id":4,"path_with_namespace":"demo/agents"},"error":{"status":503,"message":"agent 2 is not\nconnected"}},
	{"id":3,"name":"old","config_project":{"id":4,"path_with_namespace":"demo/agents"},"error":null,"source":{"kind":"Pod","namespaced":true},
		"columns":[{"name":"Name"},{"name":"Phase"}],"items":[{"namespace":"web","name":"b","cells":["b","Running"]}]},
	{"id":1,"name":"east","config_project":{"id":4,"path_with_namespace":"demo/agents"},"error":null,"source":{"kind":"Pod","namespaced":true},
		"columns":[{"name":"Name"},{"name":"Status"}],"items":[{"namespace":"web","name":"a","cells":["a","Pending"]}]}]}`

func TestGet_OfAllAgentsNamesThoseThatDoNotAnswer(t *testing.T) {
	for _, row := range []struct {
		name, asked string
		args        []string
		stdout      string
	}{
		{"one namespace", "?namespace=web&shape=table", []string{"pods", "-n", "web"}, "AGENT              NAME   STATUS    PHASE\n" +
			"demo/agents:east   a      Pending\n" + "demo/agents:old    b                Running\n"},
		{"all namespaces", "?shape=table", []string{"pods", "-A"}, "AGENT              NAMESPACE   NAME   STATUS    PHASE\n" +
			"demo/agents:east   web         a      Pending\n" + "demo/agents:old    web         b                Running\n"},
		{"by name", "?field_selector=metadata.name=a&shape=table", []string{"pods", "a", "-A", "--no-headers"}, "demo/agents:east   web   a     Pending\n" +
			"demo/agents:old    web   b               Running\n"},
		{"names", "?namespace=default&shape=table", []string{"pods", "-o", "name"}, "demo/agents:east pod/a\ndemo/agents:old pod/b\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startClusterRoR(t, map[string][]answer{"/api/v4/cluster_state/pods": {{200, fleetAnswer, false}}})
			status, stdout, stderr := call(t, append([]string{"get", "--all-agents"}, row.args...)...)
			require.Equal(t, 1, status)
			require.Equal(t, row.stdout, stdout)
			require.Equal(t, "demo/agents:west: agent 2 is not connected\nkasctl: 1 of 3 agents did not answer\n", stderr)
			require.Equal(t, "cluster_state/pods"+row.asked, ror.asked[0])
		})
	}
	startClusterRoR(t, map[string][]answer{"/api/v4/cluster_state/widgets": {{200, `{"agents":[{"id":1,"name":"a","error":{"status":404,"message":"serves no widgets"}}]}`, false}}})
	_, _, stderr := call(t, "get", "--all-agents", "widgets")
	require.Contains(t, stderr, "1 of 1 agents did not answer (of a custom resource, name the group as well: widgets.example.com)\n")

	startClusterRoR(t, map[string][]answer{"/api/v4/cluster_state/pods": {{200, `{"agents":[]}`, false}}})
	status, _, stderr := call(t, "get", "--all-agents", "pods")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "no agent is registered")
}

// line of a watch.
func line(rest string) string { return `{"events":[` + rest + "}\n" }

func event(kind, name, version, status string) string {
	return fmt.Sprintf(`{"type":%q,"item":{"namespace":"default","name":%q,"resource_version":%q,"cells":[%q,%q,"1s"],"object":{"n":%q}}}`, kind, name, version, name, status, version)
}

const head = `"source":{"kind":"Pod","namespaced":true},"columns":[{"name":"Name"},{"name":"Status"},{"name":"Age"}]`

func TestGet_WatchGoesOnWhereItWasCutOff(t *testing.T) {
	ror := startClusterRoR(t, map[string][]answer{ofSandbox + "/pods": {
		{200, line(event("ADDED", "a", "1", "Pending")+`],`+head+`,"reset":true,"cursor":"c1"`) + "\n" +
			line(event("ADDED", "b", "2", "Running")+`],"synced":true,"cursor":"c2"`) +
			line(event("MODIFIED", "a", "3", "Running")+`],"cursor":"c3"`), false}, // the end of its life
		{503, `{"message":"503 Service Unavailable - agent sandbox is not connected"}`, false},
		{200, line(event("DELETED", "b", "4", "Gone")+`],"cursor":"c4"`) + `{"error":{"status":503,"message":"kas ended"}}` + "\n", false},
		// Begun anew: a is as it was shown, b is gone, c and a are gone next time.
		{200, line(event("ADDED", "a", "3", "Running")+`],`+head+`,"reset":true,"cursor":"d1"`) +
			line(event("ADDED", "a-long-name", "5", "Running")+`],"synced":true,"cursor":"d2"`) +
			line(`],`+head+`,"reset":true,"cursor":"e1","synced":true`) +
			`{"error":{"status":403,"message":"no more"}}` + "\n", false},
	}})
	w := startWaiting(t, "get", "1", "pods", "--watch")
	w.step(func() bool { return false })
	require.Equal(t, 1, w.status)
	shown := strings.Split(w.stdout, "\n")
	require.Equal(t, []string{
		"NAME   STATUS    AGE",
		"a      Pending   1s",
		"b      Running   1s",
		"a      Running   1s",
		"b      Gone      1s",
		"a-long-name   Running   1s",
	}, shown[:6])
	require.ElementsMatch(t, []string{"a             Running   1s", "a-long-name   Running   1s"}, shown[6:8], "what has gone meanwhile")
	require.Equal(t, "waiting: agent sandbox is not connected\nwaiting: kas ended\nkasctl: get pods of demo/agents:sandbox: no more\n", w.stderr)
	asked := ror.questions()
	require.Contains(t, asked[0], "?namespace=default&shape=table&watch=true")
	require.Contains(t, asked[1], "?cursor=c3&")
	require.Contains(t, asked[3], "?cursor=c4&")
}

func TestGet_WatchShowsObjects(t *testing.T) {
	answers := line(event("ADDED", "a", "1", "")+`],`+head+`,"reset":true,"synced":true,"cursor":"c1"`) +
		line(`{"type":"DELETED","item":{"namespace":"default","name":"a"}}],"cursor":"c2"`) + `{"error":{"status":404,"message":"enough"}}`
	for format, want := range map[string]string{
		"yaml": "---\nname: a\nnamespace: default\nobject:\n  \"n\": \"1\"\ntype: ADDED\n---\nname: a\nnamespace: default\nobject: null\ntype: DELETED\n",
		"name": "pod/a\npod/a\n",
	} {
		startClusterRoR(t, map[string][]answer{ofSandbox + "/pods": {{200, answers, false}}})
		_, stdout, stderr := call(t, "get", "1", "po", "a", "-w", "-o", format)
		require.Equal(t, want, stdout)
		require.Contains(t, stderr, "enough")
	}
}

func TestGet_WatchEndsWhenInterrupted(t *testing.T) {
	ror := startClusterRoR(t, map[string][]answer{ofSandbox + "/pods": {{200, line(`],` + head + `,"synced":true,"cursor":"c1"`), true}}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		status, _, _ := callWith(t, ctx, clocktesting.NewFakeClock(time.Unix(0, 0)), "get", "1", "pods", "-w")
		ended <- status
	}()
	w := &waiting{clock: clocktesting.NewFakeClock(time.Unix(0, 0)), ended: make(chan struct{})}
	w.step(func() bool {
		ror.mu.Lock()
		defer ror.mu.Unlock()
		return len(ror.asked) > 1
	})
	cancel()
	require.Zero(t, <-ended)
}

package scenarios

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

const (
	// gitPush is the root of a commit's trace.
	gitPush = "POST /{project}.git/git-receive-pack"
	// maxPushes is how often kas may find a commit by itself before ror has told it.
	maxPushes = 5
)

var errNoTrace = errors.New("there is no such trace")

func TestTracing_FollowsACommitAndAQueryThroughAllProcesses(t *testing.T) {
	t.Parallel()
	collector := harness.NewCollector(t)
	f := env.Beside(t, func(cfg *stack.Config) {
		cfg.TracingEndpoint = collector.Endpoint
		cfg.PollPeriod = 10 * time.Second // what is found is found because ror has told, mostly
	}).NewUnconfigured(t)
	configured := f.ConfigureFile("gitops:\n  manifest_projects:\n  - id: " + f.Manifests.Path + "\n    default_namespace: " + f.Name + "\n" + asAgent(f))
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	const name, value = "very-own-name", "very-own-value"
	f.Manifests.Write("a.yaml", harness.ConfigMap(name, "first"))
	f.WaitSynced(f.Manifests.Push("Create"))
	for n := 1; ; n++ {
		f.Manifests.Write("a.yaml", harness.ConfigMap(name, fmt.Sprint(value, n)))
		commit := f.Manifests.Push("Change")
		f.WaitSynced(commit)
		f.Eventually(func() error { return syncOf(collector, commit).Whole() })
		if syncOf(collector, commit).Find("ror", gitPush) != nil || n == maxPushes {
			f.Eventually(func() error { return followsCommit(collector, commit) })
			break
		}
		t.Log("kas has found the commit by itself")
	}

	cluster := "/projects/" + url.PathEscape(f.Config.Path) + "/cluster_agents/" + strconv.FormatInt(f.Agent.ID, 10) + "/cluster_state/configmaps"
	ask := func(path string) error {
		var answer any
		return f.Client().Do(t.Context(), http.MethodGet, path+"?namespace="+f.Name, nil, &answer)
	}
	if err := errors.Join(ask(cluster+"/"+name), ask(cluster)); err != nil {
		t.Fatal(err)
	}
	if err := ask(cluster + "/not-" + name); err == nil {
		t.Fatal("what is not there is there")
	}
	f.Eventually(func() error { return followsQuery(collector, "/{name}", "Get") })
	f.Eventually(func() error { return followsQuery(collector, "", "List") })

	kubeconfig := f.ProxyKubeconfig(f.Stack.KasProxyURL, f.PersonalBearer(f.ProxyToken(nil)))
	letIn(f, configured, kubeconfig)
	f.KubectlWith(kubeconfig).Must("--namespace", f.Name, "get", "configmap", name)
	f.Eventually(func() error { return followsProxied(collector) })

	f.Eventually(func() error { // a parent may be sent after its children
		for _, trace := range collector.Traces() {
			if err := trace.Whole(); err != nil {
				return err
			}
		}
		return nil
	})
	for _, trace := range collector.Traces() {
		for _, span := range trace {
			if span.Says(name) || span.Says(value) || span.Says(f.Token.Token) || span.Says(f.Stack.Token) {
				t.Errorf("a span tells too much: %v", span)
			}
		}
	}
}

// syncOf is the trace that the sync of a commit is part of.
func syncOf(c *harness.Collector, commit string) harness.Trace {
	return c.TraceWith(func(s *harness.Span) bool {
		return s.Service == "agentk" && s.GetName() == "sync" && s.Attribute("commit") == commit
	})
}

// followsCommit looks for the way of a commit that was pushed.
func followsCommit(c *harness.Collector, commit string) error {
	trace := syncOf(c, commit)
	errs := []error{trace.Whole()}
	pushed := []string{
		"ror: " + gitPush, "ror: POST /api/v4/internal/post_receive",
		"ror: railsrpc.Notifications/GitPushEvent", "kas: railsrpc.Notifications/GitPushEvent", "kas: poll", "kas: parse",
	}
	goes := func(further ...string) { errs = append(errs, trace.Way(slices.Concat(pushed, further)...)) }
	goes("kas: gitaly.BlobService/ListBlobs")
	for _, phase := range []string{"receive", "plan", "apply ConfigMap", "wait for health"} {
		goes("kas: push set", "agentk: sync", "agentk: "+phase)
	}
	goes("kas: push set", "agentk: sync", "kas: report", "kas: tell RoR", "ror: POST /api/v4/internal/kubernetes/sync_status")
	return errors.Join(errs...)
}

// followsQuery looks for the way of a query, and of its answer.
func followsQuery(c *harness.Collector, path, method string) error {
	route := "GET /api/v4/projects/{id}/cluster_agents/{agent}/cluster_state/{resource}" + path
	trace := c.TraceWith(func(s *harness.Span) bool { return s.Service == "ror" && s.GetName() == route })
	if trace == nil {
		return errNoTrace
	}
	return errors.Join(trace.Whole(), trace.Way(
		"ror: "+route, "ror: railsrpc.ClusterState/"+method, "kas: railsrpc.ClusterState/"+method,
		"kas: tunnel agentrpc.ClusterQuery/"+method, "agentk: agentrpc.ClusterQuery/"+method,
	))
}

// followsProxied looks for the way of a request to the Kubernetes API for which RoR was asked.
func followsProxied(c *harness.Collector) error {
	err := errNoTrace
	for _, trace := range c.Traces() {
		if trace.Find("kas", "proxy GET") == nil {
			continue
		}
		err = errors.Join(trace.Whole(),
			trace.Way("kas: proxy GET", "ror: POST /api/v4/internal/kubernetes/authorize_proxy_user"),
			trace.Way("kas: proxy GET", "agentk: Kubernetes API GET"))
		if err == nil {
			return nil
		}
	}
	return err
}

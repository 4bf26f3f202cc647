package scenarios

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/e2e/harness"
)

// asAgent lets members of the configuration project into the cluster as the agent itself.
func asAgent(f *harness.Fixture) string {
	return "user_access:\n  access_as: {agent: {}}\n  projects: [{id: " + f.Config.Path + "}]\n"
}

// asUser lets them in as themselves.
func asUser(f *harness.Fixture) string {
	return "user_access:\n  access_as: {user: {}}\n  projects: [{id: " + f.Config.Path + "}]\n"
}

// proxied is a fixture whose agent is configured so, for the proxy alone, and a kubectl that
// reaches its cluster through kas with a personal token of the administrator's.
func proxied(tb testing.TB, config func(*harness.Fixture) string) (*harness.Fixture, *harness.Kubectl) {
	tb.Helper()
	f := env.NewUnconfigured(tb)
	commit := f.ConfigureFile(config(f))
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	kubeconfig := f.ProxyKubeconfig(f.Stack.KasProxyURL, f.PersonalBearer(f.ProxyToken(nil)))
	letIn(f, commit, kubeconfig)
	kubectl := f.KubectlWith(kubeconfig)
	return f, kubectl
}

// proxiedOfOwn is proxied by a kas of the fixture's own, which tests may kill, and whose gauges
// are about nobody else.
func proxiedOfOwn(tb testing.TB, config func(*harness.Fixture) string, change func(string) string) (*harness.Fixture, *harness.Kas, *harness.Kubectl) {
	tb.Helper()
	f := env.NewUnconfigured(tb)
	commit := f.ConfigureFile(config(f))
	kas := f.NewKasWith(pollPeriodOfOwn, change)
	f.Agentk = f.NewAgentkOf(kas.AgentAddress, "agentk")
	f.Start(f.Agentk)
	kubeconfig := f.ProxyKubeconfig(kas.ProxyURL, f.PersonalBearer(f.ProxyToken(nil)))
	letIn(f, commit, kubeconfig)
	kubectl := f.KubectlWith(kubeconfig)
	return f, kas, kubectl
}

// client speaks HTTP with what a kubeconfig says.
func client(f *harness.Fixture, kubeconfig string) (base string, c *http.Client) {
	f.T.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		f.T.Fatal(err)
	}
	c, err = rest.HTTPClientFor(config)
	if err != nil {
		f.T.Fatal(err)
	}
	return strings.TrimSuffix(config.Host, "/"), c
}

// letIn waits until RoR knows the agent's configuration and the agent is connected.
func letIn(f *harness.Fixture, commit, kubeconfig string) {
	f.T.Helper()
	f.Eventually(func() error { // before kas asks RoR: it would believe a refusal for a while
		status, err := f.Client().SyncStatus(f.T.Context(), f.Config.Path, f.Agent.ID)
		if err == nil && status.Configuration.GetCommitId() != commit {
			err = fmt.Errorf("the configuration is that of commit %q", status.Configuration.GetCommitId())
		}
		return err
	})
	base, c := client(f, kubeconfig)
	f.Eventually(func() error { return isStatus(f, c, base+"/version", http.StatusOK) })
}

// isStatus is an error unless a GET is answered so.
func isStatus(f *harness.Fixture, c *http.Client, url string, want int) error {
	req, err := http.NewRequestWithContext(f.T.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("GET: %w", err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	if resp.StatusCode != want {
		return fmt.Errorf("GET %s is answered with %s", url, resp.Status)
	}
	return nil
}

// nothingRuns waits until agentk, and kas if it is given, have no request of the proxy under
// way, no stream of the tunnel for one, and no upgraded connection.
func nothingRuns(f *harness.Fixture, kas *harness.Kas) {
	f.T.Helper()
	f.Eventually(func() error {
		return none(f.Metrics(f.Agentk.MetricsURL),
			"agentk_kubernetes_api_requests_running", "agentk_kubernetes_api_upgraded_running")
	})
	if kas == nil {
		return
	}
	f.Eventually(func() error {
		m := f.Metrics(kas.MetricsURL)
		if busy := m.Sum("kas_tunnel_streams", `state="busy"`); busy != 0 {
			return fmt.Errorf("%v streams of the tunnel are busy", busy)
		}
		return none(m, "kas_proxy_requests_running", "kas_proxy_upgraded_connections")
	})
}

// none is an error unless all gauges are there and zero.
func none(m harness.Metrics, gauges ...string) error {
	for _, gauge := range gauges {
		if value, ok := m[gauge]; !ok || value != 0 {
			return fmt.Errorf("%s is %v", gauge, value)
		}
	}
	return nil
}

// transports of exec, attach and port-forward, as kubectl's environment chooses them.
func transports(yield func(name string, env []string) bool) {
	for _, websocket := range []bool{true, false} {
		name, value := "SPDY", strconv.FormatBool(websocket)
		if websocket {
			name = "WebSocket"
		}
		if !yield(name, []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + value, "KUBECTL_PORT_FORWARD_WEBSOCKETS=" + value}) {
			return
		}
	}
}

// failedSaying is an error unless err is one with all the texts.
func failedSaying(err error, texts ...string) error {
	if err == nil {
		return errors.New("it did not fail")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			return fmt.Errorf("it does not say %q: %w", text, err)
		}
	}
	return nil
}

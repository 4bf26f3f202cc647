package scenarios

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

// TestMetrics_OfEveryHop has a commit and a question go all the way, and looks whether each
// program has measured its part, says nothing of itself that is not documented, and has
// profiles for operators.
func TestMetrics_OfEveryHop(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Change"))
	question := "/projects/" + url.PathEscape(f.Config.Path) + "/cluster_agents/" + strconv.FormatInt(f.Agent.ID, 10) +
		"/cluster_state/configmaps?namespace=" + f.Name
	var answer any
	if err := f.Client().Do(t.Context(), http.MethodGet, question, nil, &answer); err != nil {
		t.Fatal(err)
	}

	documented := documentedMetrics(t)
	for program, expected := range map[string]struct {
		at     string
		series [][]string // of which each has counted something
	}{
		"ror": {f.Stack.RorMetricsURL, [][]string{
			{"ror_http_requests_total", `route="/{project}.git/git-receive-pack"`, `code="200"`},
			{"ror_http_requests_total", `route="POST /api/v4/internal/kubernetes/sync_status"`, `code="204"`},
			{"ror_gitaly_call_seconds_count", `method="PostReceivePack"`, `code="OK"`},
			{"ror_kas_call_seconds_count", `method="GitPushEvent"`, `code="OK"`},
			{"ror_push_applied_seconds_count"},
			{"ror_push_ready_seconds_count"},
		}},
		"kas": {f.Stack.KasMetricsURL, [][]string{
			{"kas_grpc_handled_total", `method="/railsrpc.Notifications/GitPushEvent"`, `code="OK"`},
			{"kas_gitaly_poll_seconds_count", `result="moved"`},
			{"kas_gitaly_call_seconds_count", `method="InfoRefsUploadPack"`, `code="OK"`},
			{"kas_push_send_seconds_count"},
			{"kas_push_object_bytes_sent_total"},
			{"kas_push_latency_seconds_count"},
			{"kas_sync_applied_seconds_count"},
			{"kas_sync_ready_seconds_count"},
			{"kas_rails_request_seconds_count"},
			{"kas_tunnel_streams", `state="idle"`},
			{"kas_tunnel_wait_seconds_count"},
			{"kas_tunnel_rpcs_total", `method="/agentrpc.ClusterQuery/List"`, `code="OK"`},
			{"kas_tunnel_bytes_total", `direction="to_agent"`},
			{"kas_tunnel_bytes_total", `direction="from_agent"`},
		}},
		"agentk": {f.Agentk.MetricsURL, [][]string{
			{"agentk_sync_applied_seconds_count"},
			{"agentk_sync_ready_seconds_count"},
			{"agentk_apiserver_request_seconds_count", `method="PATCH"`, `code="200"`},
			{"agentk_apiserver_request_seconds_count", `method="WATCH"`, `code="200"`},
			{"agentk_tunnel_streams", `state="idle"`},
			{"agentk_tunnel_rpcs_total", `method="/agentrpc.ClusterQuery/List"`, `code="OK"`},
			{"agentk_tunnel_bytes_total", `direction="from_kas"`},
			{"agentk_tunnel_bytes_total", `direction="to_kas"`},
		}},
	} {
		for _, s := range expected.series {
			f.Eventually(func() error {
				m, err := harness.Scrape(t.Context(), expected.at)
				if err == nil && m.Sum(s[0], s[1:]...) == 0 {
					err = fmt.Errorf("%s has counted nothing in %v", program, s)
				}
				return err
			})
		}
		for series := range f.Metrics(expected.at) {
			name, _, _ := strings.Cut(series, "{")
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if strings.HasPrefix(name, program+"_") && !documented[name] {
				t.Errorf("%s serves %s, of which docs/metrics.md says nothing", program, name)
			}
		}
		profile := strings.TrimSuffix(expected.at, "/metrics") + "/debug/pprof/goroutine?debug=1"
		if err := answersOK(t.Context(), profile); err != nil {
			t.Errorf("%s: %v", program, err)
		}
	}
}

// documentedMetrics are the names in the tables of docs/metrics.md.
func documentedMetrics(t *testing.T) map[string]bool {
	t.Helper()
	content, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|").FindAllStringSubmatch(string(content), -1) {
		names[m[1]] = true
	}
	return names
}

func answersOK(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, harness.AnswerTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask for a profile: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, answer.Status)
	}
	return nil
}

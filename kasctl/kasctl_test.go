package kasctl

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/program"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRoR serves the files of testdata in RoR's place.
type fakeRoR struct {
	*httptest.Server
	// status is the file that answers for agent 1 of project 4.
	status atomic.Value
	// diff is the file that answers for a comparison.
	diff atomic.Value
	// asked counts questions for a status.
	asked atomic.Int64
	// fail, unless zero, is the HTTP status of the next answers.
	fail atomic.Int64

	mu sync.Mutex
	// commands that agent 1 was sent: the verb and the body.
	commands []string
	// refuse, unless zero, is the HTTP status of answers to commands.
	refuse int
}

// command answers POST sync_status/<verb>.
func (r *fakeRoR) command(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = append(r.commands, req.PathValue("verb")+" "+string(body))
	switch verb := req.PathValue("verb"); {
	case r.refuse != 0:
		w.WriteHeader(r.refuse)
		_, _ = fmt.Fprintf(w, `{"message":"%d %s - the agent is\nnot connected"}`, r.refuse, http.StatusText(r.refuse))
	case verb == "diff":
		data, _ := os.ReadFile(filepath.Join("testdata", r.diff.Load().(string)))
		_, _ = w.Write(data)
	case verb == "sync":
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte(`{"message":"202 Accepted"}`))
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func startRoR(t *testing.T) *fakeRoR {
	t.Helper()
	r := &fakeRoR{}
	r.status.Store("synced.json")
	r.diff.Store("diff.json")
	file := func(w http.ResponseWriter, name string) {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(data)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v4/cluster_agents", func(w http.ResponseWriter, _ *http.Request) { file(w, "agents.json") })
	mux.HandleFunc("GET /api/v4/projects/{project}/cluster_agents/{agent}/sync_status", func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		if req.PathValue("project") == "4" && req.PathValue("agent") == "1" {
			file(w, r.status.Load().(string))
			return
		}
		file(w, "none.json")
	})
	mux.HandleFunc("POST /api/v4/projects/4/cluster_agents/1/sync_status/{verb}", r.command)
	mux.HandleFunc("GET /elsewhere/", func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, "https://gitlab.example"+req.URL.Path, http.StatusFound)
	})
	mux.HandleFunc("GET /page/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if code := r.fail.Load(); code != 0 {
			w.WriteHeader(int(code))
			_, _ = w.Write([]byte(`{"message":"no luck"}`))
			return
		}
		if req.Header.Get("PRIVATE-TOKEN") != "glpat-1" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"message":"401 Unauthorized"}`))
			return
		}
		mux.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	t.Setenv("ROR_URL", r.URL)
	t.Setenv("ROR_TOKEN", "glpat-1")
	return r
}

// call runs kasctl and returns what a shell would see.
func call(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return callWith(t, t.Context(), clocktesting.NewFakeClock(time.Unix(0, 0)), args...)
}

func callWith(t *testing.T, ctx context.Context, clk *clocktesting.FakeClock, args ...string) (status int, stdout, stderr string) { //nolint:revive // t first, as everywhere
	t.Helper()
	cmd := newCommand(clk) //nolint:contextcheck // Run gives it one
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	status = program.Run(ctx, cmd, args, &errs)
	http.DefaultClient.CloseIdleConnections()
	return status, out.String(), errs.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestKasctl_Shows(t *testing.T) {
	for _, row := range []struct {
		golden string
		answer string
		args   []string
	}{
		{"agents.golden", "synced.json", []string{"agents"}},
		{"agents.json.golden", "synced.json", []string{"agents", "-o", "json"}},
		{"status-all.golden", "partial.json", []string{"status"}},
		{"status-one.golden", "synced.json", []string{"status", "demo/agents:sandbox"}},
		{"status-partial.golden", "partial.json", []string{"status", "1"}},
		{"status-wide.golden", "partial.json", []string{"status", "1", "-o", "wide"}},
		{"status-no-objects.golden", "partial.json", []string{"status", "1", "--objects=false"}},
		{"status-project.golden", "partial.json", []string{"status", "1", "--project", "demo/other"}},
		{"status.yaml.golden", "partial.json", []string{"status", "1", "--output=yaml"}},
		{"status-guarded.golden", "guarded.json", []string{"status", "1"}},
		{"status-none.golden", "synced.json", []string{"status", "production"}},
	} {
		t.Run(row.golden, func(t *testing.T) {
			startRoR(t).status.Store(row.answer)
			status, stdout, stderr := call(t, row.args...)
			require.Zero(t, status, stderr)
			golden(t, row.golden, stdout)
			require.NotContains(t, stdout, "\x1b", "what others wrote does not reach the terminal")
		})
	}
}

func TestKasctl_SaysWhatToDo(t *testing.T) {
	for _, row := range []struct {
		name   string
		url    string // beside RoR's own
		env    map[string]string
		fail   int64
		args   []string
		status int
		stderr string
	}{
		{"no address", "", map[string]string{"ROR_URL": ""}, 0, []string{"agents"}, 2, "no address of RoR: set --url or ROR_URL"},
		{"a strange address", "", map[string]string{"ROR_URL": "gitlab.example"}, 0, []string{"agents"}, 2, "want http://HOST or https://HOST"},
		{"no token", "", map[string]string{"ROR_TOKEN": ""}, 0, []string{"agents"}, 2, "no token: set --token-file, --token or ROR_TOKEN"},
		{"a wrong token", "", map[string]string{"ROR_TOKEN": "old"}, 0, []string{"agents"}, 1, "does not know the token (401): create a personal access token"},
		{"nobody there", "", map[string]string{"ROR_URL": "http://127.0.0.1:1"}, 0, []string{"agents"}, 1, "cannot reach RoR at http://127.0.0.1:1 (check --url)"},
		{"not RoR", "/page", nil, 0, []string{"agents"}, 1, "does not answer in JSON: is it the address of RoR?"},
		{"moved", "/elsewhere", nil, 0, []string{"agents"}, 1, "redirects to https://gitlab.example/elsewhere/api/v4/cluster_agents: use that as --url"},
		{"not found", "/nowhere", nil, 0, []string{"agents"}, 1, "404"},
		{"forbidden", "", nil, 403, []string{"agents"}, 1, "your user may not see this (403): no luck"},
		{"in trouble", "", nil, 502, []string{"agents"}, 1, "is in trouble (502 Bad Gateway), try again: no luck"},
		{"an unknown agent", "", nil, 0, []string{"status", "other"}, 1, `no agent "other": there are demo/agents:production, demo/agents:sandbox, team/agents:sandbox`},
		{"an ambiguous agent", "", nil, 0, []string{"status", "sandbox"}, 1, `several agents go by "sandbox": name one of demo/agents:sandbox, team/agents:sandbox`},
		{"an unknown format", "", nil, 0, []string{"status", "-o", "xml"}, 2, `--output "xml": want one of table, wide, json, yaml`},
		{"an unknown command", "", nil, 0, []string{"frobnicate"}, 2, `unknown command "frobnicate"`},
		{"a short commit", "", nil, 0, []string{"status", "1", "--wait", "--commit=abc"}, 2, "--commit: want 7 to 64 hexadecimal digits"},
		{"a commit without a wait", "", nil, 0, []string{"status", "1", "--commit=1234567"}, 2, "--commit has an effect with --wait or --exit-code only"},
		{"two ways to wait", "", nil, 0, []string{"status", "--wait", "--watch"}, 2, "exclude each other"},
		{"a token file that is missing", "", nil, 0, []string{"agents", "--token-file=/none"}, 2, "--token-file: open /none"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startRoR(t)
			ror.fail.Store(row.fail)
			t.Setenv("ROR_URL", ror.URL+row.url)
			for k, v := range row.env {
				t.Setenv(k, v)
			}
			status, stdout, stderr := call(t, row.args...)
			require.Equal(t, row.status, status, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, row.stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line")
		})
	}
}

func TestKasctl_TokenFromAFile(t *testing.T) {
	startRoR(t)
	t.Setenv("ROR_TOKEN", "wrong")
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte("glpat-1\n"), 0o600))
	status, _, stderr := call(t, "agents", "--token-file", path)
	require.Zero(t, status, stderr)
}

func TestKasctl_ExitCode(t *testing.T) {
	for _, row := range []struct {
		name, answer string
		args         []string
		status       int
		stderr       string
	}{
		{"synced", "synced.json", nil, 0, ""},
		{"synced at the commit", "synced.json", []string{"--commit", "AAAAAAA"}, 0, ""},
		{"synced at another commit", "synced.json", []string{"--commit", "ccccccc"}, 3, "kasctl: not synced: demo/manifests in demo/agents:sandbox: synced at aaaaaaaa, not at ccccccc\n"},
		{"partial", "partial.json", nil, 3, "kasctl: not synced: demo/agents:sandbox: .gitlab/agents/sandbox/config.yaml:3: unknown key"},
		{"another project is synced", "synced.json", []string{"--project", "demo/none"}, 3, "kasctl: not synced: there is no such manifest project"},
	} {
		t.Run(row.name, func(t *testing.T) {
			startRoR(t).status.Store(row.answer)
			status, _, stderr := call(t, append([]string{"status", "1", "--exit-code"}, row.args...)...)
			require.Equal(t, row.status, status)
			require.True(t, strings.HasPrefix(stderr, row.stderr), stderr)
		})
	}
}

// waiting runs kasctl beside the test, whose clock runs in steps of a second.
type waiting struct {
	clock          *clocktesting.FakeClock
	status         int
	stdout, stderr string
	ended          chan struct{}
}

func startWaiting(t *testing.T, args ...string) *waiting {
	t.Helper()
	w := &waiting{clock: clocktesting.NewFakeClock(time.Unix(0, 0)), ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(w.ended)
		w.status, w.stdout, w.stderr = callWith(t, ctx, w.clock, args...)
	}()
	t.Cleanup(func() {
		cancel()
		<-w.ended
	})
	return w
}

// step lets time pass until until returns true or kasctl has ended.
func (w *waiting) step(until func() bool) {
	for !until() {
		select {
		case <-w.ended:
			return
		case <-time.After(time.Millisecond):
			w.clock.Step(time.Second)
		}
	}
}

func TestKasctl_WaitsUntilSynced(t *testing.T) {
	ror := startRoR(t)
	ror.status.Store("partial.json")
	w := startWaiting(t, "status", "1", "--wait", "--timeout=24h", "--objects=false")
	w.step(func() bool { return ror.asked.Load() > 2 })
	ror.fail.Store(503) // passes
	for range 10 {
		w.clock.Step(time.Second)
	}
	ror.status.Store("synced.json") // first: what it waited for before would be said again
	ror.fail.Store(0)
	w.step(func() bool { return false })
	require.Zero(t, w.status, w.stderr)
	require.Contains(t, w.stdout, "Synced")
	require.Equal(t, 1, strings.Count(w.stderr, "waiting: not synced: demo/agents:sandbox:"), "said once: %s", w.stderr)
}

func TestKasctl_WaitsNoLongerThanTold(t *testing.T) {
	startRoR(t).status.Store("partial.json")
	w := startWaiting(t, "status", "1", "--wait", "--timeout=1m")
	w.step(func() bool { return false })
	require.Equal(t, 3, w.status)
	require.Contains(t, w.stdout, "demo/manifests", "what is, is shown")
	require.Contains(t, w.stderr, "kasctl: after 1m0s still not synced: ")
}

func TestKasctl_WaitGivesUpWhereWaitingDoesNotHelp(t *testing.T) {
	startRoR(t)
	t.Setenv("ROR_TOKEN", "wrong")
	status, _, stderr := call(t, "status", "1", "--wait")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "401")
}

func TestKasctl_WatchesUntilInterrupted(t *testing.T) {
	ror := startRoR(t)
	clk := clocktesting.NewFakeClock(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	var status int
	var stdout string
	go func() {
		defer close(ended)
		status, stdout, _ = callWith(t, ctx, clk, "status", "1", "--watch")
	}()
	w := &waiting{clock: clk, ended: ended}
	w.step(func() bool { return ror.asked.Load() > 2 })
	ror.fail.Store(503)
	for range 3 {
		clk.Step(time.Second)
	}
	ror.fail.Store(0)
	asked := ror.asked.Load()
	w.step(func() bool { return ror.asked.Load() > asked })
	cancel()
	<-ended
	require.Zero(t, status)
	require.Greater(t, strings.Count(stdout, clearScreen), 2)
}

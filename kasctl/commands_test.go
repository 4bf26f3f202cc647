package kasctl

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/program"
)

const heldCommit = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

func TestKasctl_Commands(t *testing.T) {
	for _, row := range []struct {
		name    string
		answer  string
		args    []string
		command string
		golden  string
	}{
		{"sync of the only project", "synced.json", []string{"sync", "1"}, `sync {"manifest_project":"demo/manifests"}`, "sync.golden"},
		{"suspend by path", "guarded.json", []string{"suspend", "demo/agents:sandbox", "demo/manifests"}, `suspend {"manifest_project":"7"}`, "suspend.golden"},
		{"resume by id", "guarded.json", []string{"resume", "1", "7", "-o", "yaml"}, `resume {"manifest_project":"7"}`, "resume.yaml.golden"},
		{"approve without a question", "guarded.json", []string{"approve", "1", "7", "BBBBBBB", "--yes", "-o", "json"}, `approve_prune {"manifest_project":"7","commit_id":"` + heldCommit + `"}`, "approve.json.golden"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startRoR(t)
			ror.status.Store(row.answer)
			status, stdout, stderr := call(t, row.args...)
			require.Zero(t, status, stderr)
			require.Equal(t, []string{row.command}, ror.commands)
			golden(t, row.golden, stdout)
		})
	}
}

func TestKasctl_CommandsSayWhatToDo(t *testing.T) {
	for _, row := range []struct {
		name, answer string
		refuse       int
		args         []string
		status       int
		stderr       string
	}{
		{"no agent", "synced.json", 0, []string{"sync"}, 2, "accepts between 1 and 2 arg(s)"},
		{"no project to choose", "none.json", 0, []string{"sync", "1"}, 1, "agent demo/agents:sandbox follows no manifest project (yet): its configuration names them"},
		{"several to choose from", "guarded.json", 0, []string{"suspend", "1"}, 1, "follows several manifest projects: name one of 7, demo/other"},
		{"another project", "guarded.json", 0, []string{"suspend", "1", "demo/none"}, 1, `does not follow "demo/none": it follows 7, demo/other`},
		{"an agent that is away", "synced.json", 503, []string{"sync", "1"}, 1, "sync demo/manifests in demo/agents:sandbox: 503 Service Unavailable - the agent is not connected"},
		{"a user who may not", "synced.json", 403, []string{"resume", "1"}, 1, "it takes a maintainer of the agent's configuration project"},
		{"nothing to approve", "synced.json", 0, []string{"approve", "1", "demo/manifests", "bbbbbbb"}, 1, "nothing waits for approval in demo/manifests"},
		{"another commit to approve", "guarded.json", 0, []string{"approve", "1", "7", "ccccccc"}, 1, "commit " + heldCommit + " waits for approval, not ccccccc"},
		{"no commit to approve", "guarded.json", 0, []string{"approve", "1", "7", "main"}, 2, `COMMIT "main": want 7 to 64 hexadecimal digits`},
		{"a commit without a wait", "synced.json", 0, []string{"sync", "1", "--commit=1234567"}, 2, "--commit has an effect with --wait only"},
		{"a strange format", "synced.json", 0, []string{"suspend", "1", "-o", "xml"}, 2, "want one of table"},
		{"a comparison with half a commit ID", "synced.json", 0, []string{"diff", "1", "--commit=1234567"}, 2, "want a whole commit ID"},
		{"a comparison with two refs", "synced.json", 0, []string{"diff", "1", "--branch=a", "--tag=b"}, 2, "[branch tag]"},
		{"a comparison that fails is not one that differs", "synced.json", 409, []string{"diff", "1"}, 2, "409 Conflict"},
		{"a comparison with nobody", "none.json", 0, []string{"diff", "other"}, 2, `no agent "other"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startRoR(t)
			ror.status.Store(row.answer)
			ror.refuse = row.refuse
			status, stdout, stderr := call(t, row.args...)
			require.Equal(t, row.status, status, stderr)
			require.Empty(t, stdout)
			require.Contains(t, stderr, row.stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), "one line")
		})
	}
}

func TestKasctl_ApproveAsks(t *testing.T) {
	for _, row := range []struct {
		name, answer string
		status       int
		asked        int
	}{
		{"yes", "yes\n", 0, 1},
		{"yes without an end of line", "yes", 0, 1},
		{"no", "no\n", 1, 0},
		{"half a yes", "y\n", 1, 0},
		{"nobody there", "", 1, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startRoR(t)
			ror.status.Store("guarded.json")
			cmd := newCommand(clocktesting.NewFakeClock(time.Unix(0, 0)))
			var stdout, stderr bytes.Buffer
			cmd.SetIn(strings.NewReader(row.answer))
			cmd.SetOut(&stdout)
			cmd.SetErr(&stderr)
			status := program.Run(t.Context(), cmd, []string{"approve", "1", "7", heldCommit}, &stderr)
			http.DefaultClient.CloseIdleConnections()
			require.Equal(t, row.status, status, stderr.String())
			require.Len(t, ror.commands, row.asked)
			if row.name == "no" {
				golden(t, "approve-no.golden", stderr.String())
			}
		})
	}
}

func TestKasctl_Diff(t *testing.T) {
	for _, row := range []struct {
		golden, answer string
		args           []string
		status         int
		command        string
		stderr         string
	}{
		{"diff.golden", "diff.json", nil, 1, `diff {"manifest_project":"demo/manifests"}`, "kasctl: commit cccccccc would change 4 object(s)\n"},
		{"diff-color.golden", "diff.json", []string{"--color=always", "--branch=topic"}, 1, `diff {"manifest_project":"demo/manifests","branch":"topic"}`, "kasctl: commit cccccccc would change 4 object(s)\n"},
		{"diff.yaml.golden", "diff.json", []string{"-o", "yaml", "--commit=" + heldCommit}, 1, `diff {"manifest_project":"demo/manifests","commit":"` + heldCommit + `"}`, "kasctl: commit cccccccc would change 4 object(s)\n"},
		{"diff-none.golden", "diff-none.json", []string{"--tag=v1"}, 0, `diff {"manifest_project":"demo/manifests","tag":"v1"}`, ""},
		{"diff-fault.golden", "diff-fault.json", nil, 3, `diff {"manifest_project":"demo/manifests"}`, "kasctl: commit cccccccc is at fault: 1 mistake(s) in its files, 1 object(s) that the API server refuses\n"},
	} {
		t.Run(row.golden, func(t *testing.T) {
			ror := startRoR(t)
			ror.diff.Store(row.answer)
			status, stdout, stderr := call(t, append([]string{"diff", "1"}, row.args...)...)
			require.Equal(t, row.status, status, stderr)
			require.Equal(t, row.stderr, stderr)
			require.Equal(t, []string{row.command}, ror.commands)
			golden(t, row.golden, stdout)
		})
	}
}

func TestIsTerminal_AFileIsNone(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "out")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	require.False(t, isTerminal(file))
	require.False(t, isTerminal(&bytes.Buffer{}))
}

func TestKasctl_SyncWaits(t *testing.T) {
	for _, row := range []struct {
		name, before, after string
		args                []string
		status              int
		stderr              string
	}{
		{"until what is there is newer and synced", "synced.json", "synced-later.json", nil, 0, "waiting: not synced: the agent has not ended a run since\n"},
		{"until the agent has run again", "ran.json", "ran-later.json", nil, 0, "waiting: not synced: the agent has not ended a run since\n"},
		{"not only until there is other news", "ran.json", "ran-news.json", []string{"--timeout=1m"}, 3, "after 1m0s still not synced: the agent has not ended a run since"},
		{"until it has failed", "synced.json", "partial-one.json", nil, 3, "1 of 3 objects failed"},
		{"until the commit is there", "synced.json", "synced-later.json", []string{"--commit", "CCCCCCC"}, 0, "waiting: not synced: the repository is at aaaaaaaa as far as kas has seen\n"},
		{"no longer than told", "synced.json", "synced.json", []string{"--timeout=1m"}, 3, "after 1m0s still not synced: the agent has not ended a run since"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ror := startRoR(t)
			ror.status.Store(row.before)
			// By itself it waits five minutes, which the clock may have stepped while it asks once.
			w := startWaiting(t, append([]string{"sync", "1", "--wait", "--timeout=24h"}, row.args...)...)
			w.step(func() bool { return ror.asked.Load() > 3 })
			ror.status.Store(row.after)
			w.step(func() bool { return false })
			require.Equal(t, row.status, w.status, w.stderr)
			require.Contains(t, w.stderr, row.stderr)
			require.Contains(t, w.stdout, "demo/manifests", "what is, is shown")
			require.Equal(t, []string{`sync {"manifest_project":"demo/manifests"}`}, ror.commands)
		})
	}
}

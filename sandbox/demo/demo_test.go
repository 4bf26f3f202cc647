package demo

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestJudge_SaysWhatIsTooOld(t *testing.T) {
	for _, good := range []string{"go1.26", "go1.26.8", "go1.27rc1", "devel go1.27-abc"} {
		require.NoError(t, judgeGo(good), good)
	}
	require.ErrorContains(t, judgeGo("go1.25.3"), "install go1.26 or newer")
	for _, good := range []string{"git version 2.39.5", "git version 2.33.0", "git version 3.0.1 (Apple Git-1)", "git version unknown"} {
		require.NoError(t, judgeGit(good), good)
	}
	require.ErrorContains(t, judgeGit("git version 2.30.2"), "2.33")
	require.ErrorContains(t, judgeGit("git version 1.99.0"), "2.33")
}

func TestJudgeSpace_LooksWhereTheFolderWillBe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	require.NoError(t, judgeSpace(dir, 1, "a test"))
	err := judgeSpace(dir, 1<<62, "a test")
	require.ErrorContains(t, err, "for a test; there is")
}

func TestCheck_NamesAKubeconfigThatIsNotThere(t *testing.T) {
	err := check(t.Context(), Config{Dir: t.TempDir(), Kubeconfig: "/nonexistent/config"})
	require.ErrorContains(t, err, "this machine lacks")
	require.ErrorContains(t, err, "/nonexistent/config")
}

func TestCheck_NamesAllThatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := check(t.Context(), Config{Dir: t.TempDir()})
	require.ErrorContains(t, err, "no working Go")
	require.ErrorContains(t, err, "https://go.dev/doc/install")
	require.ErrorContains(t, err, "no working git")
}

func TestLock_SaysThatADemoRunsAlready(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	unlock, err := lock(dir)
	require.NoError(t, err)
	_, err = lock(dir)
	require.ErrorContains(t, err, "the demo is running already, as process")
	require.ErrorContains(t, Clean(t.Context(), dir), "running already")
	unlock()
	require.NoError(t, Clean(t.Context(), dir))
	require.NoDirExists(t, dir)
	require.NoError(t, Clean(t.Context(), dir), "cleaning what is not there")
}

func TestWriteEnv_IsReadByAShell(t *testing.T) {
	d := &demo{cfg: Config{Dir: t.TempDir(), Out: &bytes.Buffer{}}}
	d.stack = &stack.Stack{RorURL: "http://127.0.0.1:1", Password: "pass word'$HOME"}
	d.agentk = &stack.Agentk{MetricsURL: "http://127.0.0.1:2/metrics"}
	d.sample.agentID = 7
	require.NoError(t, d.writeEnv())
	info, err := os.Stat(d.path("env"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds a password")
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", ". "+d.path("env")+`; sh -c 'echo "$ROR_PASSWORD|$CONFIG_PROJECT|$AGENT_ID|$GIT_URL"'`).Output()
	require.NoError(t, err)
	require.Equal(t, `pass word'$HOME|demo%2Fagents|7|http://root:pass%20word%27$HOME@127.0.0.1:1/demo/manifests.git`, strings.TrimSpace(string(out)))
}

func TestPushFolder_PushesToAnEmptyRepository(t *testing.T) {
	g := git{url: filepath.Join(t.TempDir(), "bare.git")}
	_, err := g.run(t.Context(), "", "init", "--quiet", "--bare", "--initial-branch=main", g.url)
	require.NoError(t, err)
	commit, err := g.head(t.Context())
	require.NoError(t, err)
	require.Empty(t, commit)

	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, ".gitlab", "agents"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(folder, ".gitlab", "agents", "a.yaml"), []byte("a: 1\n"), 0o600))
	t.Setenv("GIT_DIR", "/nonexistent") // as inside a hook of the checkout
	pushed, err := g.pushFolder(t.Context(), folder, "Add it")
	require.NoError(t, err)
	commit, err = g.head(t.Context())
	require.NoError(t, err)
	require.Equal(t, pushed, commit)
	text, err := g.run(t.Context(), g.url, "show", "main:.gitlab/agents/a.yaml")
	require.NoError(t, err)
	require.Equal(t, "a: 1", text)

	_, err = git{url: filepath.Join(t.TempDir(), "missing.git")}.head(t.Context())
	require.ErrorContains(t, err, "git ls-remote")
}

func TestSettled_WantsAStatusOfThisRun(t *testing.T) {
	began := time.Now()
	const commit = "0123456789abcdef"
	synced := func(change func(*syncstatus.ProjectStatus)) *syncstatus.ProjectStatus {
		s := &syncstatus.ProjectStatus{
			State: syncstatus.State_STATE_SYNCED, Connected: true, WantedCommit: commit, AppliedCommit: commit,
			UpdatedAt: timestamppb.New(began.Add(time.Second)),
		}
		change(s)
		return s
	}
	for _, row := range []struct {
		name   string
		change func(*syncstatus.ProjectStatus)
		fresh  bool
		want   bool
	}{
		{"in step", func(*syncstatus.ProjectStatus) {}, true, true},
		{"in step, when the last run ended", func(s *syncstatus.ProjectStatus) { s.UpdatedAt = timestamppb.New(began.Add(-time.Second)) }, false, false},
		{"no agent is connected", func(s *syncstatus.ProjectStatus) { s.Connected = false }, false, false},
		{"in step with an older commit", func(s *syncstatus.ProjectStatus) { s.WantedCommit = "older" }, true, false},
		{"not healthy yet", func(s *syncstatus.ProjectStatus) { s.State = syncstatus.State_STATE_PROGRESSING }, false, false},
		{"the sample is at fault", func(s *syncstatus.ProjectStatus) { s.State = syncstatus.State_STATE_PARTIAL }, true, false},
		{"what the user pushed is at fault", func(s *syncstatus.ProjectStatus) { s.State = syncstatus.State_STATE_PARTIAL }, false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := &demo{began: began, sample: sample{commit: commit, fresh: row.fresh}}
			require.Equal(t, row.want, d.settled(synced(row.change)))
		})
	}
}

func TestDescribe_IsAFewWords(t *testing.T) {
	require.Equal(t, "no status yet", describe(nil, nil))
	require.Equal(t, "partial at 01234567 with 3 objects (a file is at fault)", describe(&syncstatus.ProjectStatus{
		State: syncstatus.State_STATE_PARTIAL, AppliedCommit: "0123456789", Message: "a file is at fault",
		Counts: &syncstatus.Counts{Total: 3},
	}, nil))
}

// The README and the demo's own words name these.
func TestSample_HoldsWhatTheDemoSpeaksOf(t *testing.T) {
	source, err := sandbox.Source(t.Context())
	require.NoError(t, err)
	root := filepath.Join(source, "testdata", "sample")
	require.FileExists(t, filepath.Join(root, "agents", ".gitlab", "agents", agentName, "config.yaml"))
	config, err := os.ReadFile(filepath.Join(root, "agents", ".gitlab", "agents", agentName, "config.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(config), "id: "+manifestProject+"\n")
	require.FileExists(t, filepath.Join(root, "manifests", "web", "service.yaml"))
	data, err := os.ReadFile(filepath.Join(root, "manifests", "web", "deployment.yaml"))
	require.NoError(t, err)
	var deployment struct {
		Metadata struct{ Name, Namespace string }
		Spec     struct{ Replicas int }
	}
	require.NoError(t, yaml.Unmarshal(data, &deployment))
	require.Equal(t, "web", deployment.Metadata.Name)
	require.Equal(t, "web", deployment.Metadata.Namespace)
	require.NotEqual(t, 5, deployment.Spec.Replicas, "the reader is told to make it five")
}

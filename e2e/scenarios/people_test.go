package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// kasctl runs it and returns what a shell would see.
func kasctl(f *harness.Fixture, input string, args ...string) (status int, output string) {
	f.T.Helper()
	ctx, cancel := context.WithTimeout(f.T.Context(), harness.CommandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.Programs.Kasctl, args...)
	cmd.Env = append(os.Environ(), "ROR_URL="+f.Stack.RorURL, "ROR_TOKEN="+f.Stack.Token)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.T.Fatalf("kasctl %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// expectKasctl fails the test unless kasctl ends and says so.
func expectKasctl(f *harness.Fixture, status int, says string, args ...string) {
	f.T.Helper()
	if got, output := kasctl(f, "", args...); got != status || !strings.Contains(output, says) {
		f.T.Errorf("kasctl %s exits with %d, want %d and …%s…:\n%s", strings.Join(args, " "), got, status, says, output)
	}
}

// TestPeople_SuspendOnThePageResumeByKasctl also has a foreign edit survive between.
func TestPeople_SuspendOnThePageResumeByKasctl(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	agent := f.Config.Path + ":" + f.Name
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	first := f.Manifests.Push("Create")
	f.WaitSynced(first)

	browser := f.NewBrowser()
	path := "/" + f.Config.Path + "/-/cluster_agents/" + f.Name
	p := browser.Submit(signIn(t, f, browser, path), path+"/sync_status/suspend", nil)
	if p.Status != http.StatusOK || p.Path != path || !strings.Contains(p.Text(), "Suspended: nothing is applied") {
		t.Fatalf("the form led to %s, %d: %s", p.Path, p.Status, p.Text())
	}
	s := f.WaitStatus(harness.Is(syncstatus.State_STATE_SUSPENDED, first))
	if s.GetSuspension().GetBy() != stack.User {
		t.Errorf("suspended by %v, want %s", s.GetSuspension(), stack.User)
	}
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	second := f.Manifests.Push("Change")
	f.WaitStatus(harness.Is(syncstatus.State_STATE_SUSPENDED, second))
	expectKasctl(f, 1, "suspended by "+stack.User+": resume it first", "sync", agent)
	expectKasctl(f, 0, "to go on: kasctl resume "+agent, "status", agent)
	expectKasctl(f, 0, ": resumed", "resume", agent, f.Manifests.Path)
	expectKasctl(f, 0, "Synced", "sync", agent, "--wait", "--commit", second)
	f.WaitConfigMap("a", "2")
}

func TestPeople_ApproveDeletions(t *testing.T) {
	t.Parallel()
	f := env.New(t, "prune_guard: {min_objects: 2}")
	agent := f.Config.Path + ":" + f.Name
	browser := f.NewBrowser()
	path := "/" + f.Config.Path + "/-/cluster_agents/" + f.Name
	signIn(t, f, browser, path)
	for _, how := range []string{"page", "kasctl"} {
		for _, name := range []string{"a", "b", "c"} {
			f.Manifests.Write(name+".yaml", harness.ConfigMap(name, how))
		}
		f.WaitSynced(f.Manifests.Push("Create for " + how))
		f.Manifests.Git("rm", "--quiet", "b.yaml", "c.yaml")
		commit := f.Manifests.Push("Delete for " + how)
		f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
			if held := s.GetHeldPrune(); held.GetCommitId() != commit || held.GetTotal() != 2 {
				return fmt.Errorf("held is %v", held)
			}
			return nil
		})
		if how == "page" {
			approveOnThePage(t, f, browser, path)
		} else {
			if status, output := kasctl(f, "no\n", "approve", agent, f.Manifests.Path, commit); status != 1 || !strings.Contains(output, "- ConfigMap "+f.Name+"/b\n") {
				t.Errorf("kasctl approve, answered no, exits with %d: %s", status, output)
			}
			if status, output := kasctl(f, "yes\n", "approve", agent, f.Manifests.Path, commit[:8]); status != 0 {
				t.Errorf("kasctl approve, answered yes, exits with %d: %s", status, output)
			}
		}
		f.WaitSynced(commit)
		f.ExpectGone("b")
		f.ExpectGone("c")
		f.WaitConfigMap("a", how)
	}
}

// approveOnThePage approves of what the page shows to be held, once without
// confirming.
func approveOnThePage(t *testing.T, f *harness.Fixture, browser *harness.Browser, path string) {
	t.Helper()
	p := browser.Open(path)
	if text := p.Text(); !strings.Contains(text, "would delete 2 objects.") || !strings.Contains(text, "ConfigMap "+f.Name+"/c") {
		t.Fatalf("the page does not show what is held: %s", text)
	}
	action := path + "/sync_status/approve_prune"
	if refused := browser.Submit(p, action, map[string]string{"confirmed": ""}); refused.Status != http.StatusBadRequest {
		t.Errorf("an approval that is not confirmed is answered with %d: %s", refused.Status, refused.Text())
	}
	f.WaitConfigMap("b", "page")
	if done := browser.Submit(p, action, nil); done.Status != http.StatusOK || !strings.Contains(done.Text(), "Approved: ") {
		t.Fatalf("the approval is answered with %d: %s", done.Status, done.Text())
	}
}

func TestPeople_CompareABranch(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	agent := f.Config.Path + ":" + f.Name
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {password: %s}\n"
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("key.yaml", fmt.Sprintf(secret, "hunter22"))
	f.WaitSynced(f.Manifests.Push("Create"))
	expectKasctl(f, 0, "2 unchanged", "diff", agent)

	f.Manifests.Git("checkout", "--quiet", "-b", "topic")
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	f.Manifests.Write("key.yaml", fmt.Sprintf(secret, "hunter33"))
	f.Manifests.Git("add", "--all")
	f.Manifests.Git("commit", "--quiet", "--message", "Topic")
	f.Manifests.Git("push", "--quiet", "origin", "topic")
	changes := f.Changes()
	status, output := kasctl(f, "", "diff", agent, "--branch", "topic")
	for _, want := range []string{"\n~ ConfigMap " + f.Name + "/a (a.yaml:1)\n", "\n+ ConfigMap " + f.Name + "/b (b.yaml:1)\n", `+"2"`, "masked", "1 to create, 2 to change"} {
		if status != 1 || !strings.Contains(output, want) {
			t.Errorf("kasctl diff exits with %d and lacks %q:\n%s", status, want, output)
		}
	}
	if strings.Contains(output, "hunter") || strings.Contains(output, "aHVudGVy") {
		t.Errorf("kasctl diff shows a Secret:\n%s", output)
	}

	browser := f.NewBrowser()
	path := "/" + f.Config.Path + "/-/cluster_agents/" + f.Name + "/sync_status/diff"
	p := browser.Submit(signIn(t, f, browser, path), path, map[string]string{"name": "topic"})
	if p.Status != http.StatusBadRequest {
		t.Errorf("a name of nothing is answered with %d: %s", p.Status, p.Text())
	}
	expectKasctl(f, 2, "no branch gone", "diff", agent, "--branch", "gone")
	if got := changes(); len(got) != 0 {
		t.Errorf("comparing wrote: %v", got)
	}
}

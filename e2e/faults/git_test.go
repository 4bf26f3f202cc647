package faults

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

func TestGitalyKilled_DuringAPush(t *testing.T) {
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	first := f.Manifests.Push("First")
	f.WaitSynced(first)

	// Large enough for git to send it in pieces, and it does not compress.
	large := make([]byte, 8<<20)
	_, _ = rand.Read(large) // never fails
	server := f.InPush(2<<20, f.Gitaly.Process.Kill)
	theirs, err := f.CloneFrom(server, stack.User, f.Stack.Password, f.Manifests.Path)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Write("large.bin", string(large))
	theirs.Write("a.yaml", harness.ConfigMap("a", "2"))
	theirs.Git("add", "--all")
	theirs.Git("commit", "--quiet", "--message", "Second")
	if out, err := theirs.TryGit("push", "origin", "HEAD"); err == nil {
		t.Fatalf("git says that the push came through:\n%s", out)
	} else if !strings.Contains(err.Error(), "Gitaly") && !strings.Contains(err.Error(), "RPC failed") {
		t.Errorf("git does not say what is wrong: %v", err)
	}
	if f.Gitaly.Process.Running() {
		t.Fatal("Gitaly was not killed: this test tests nothing")
	}
	f.Start(f.Gitaly.Process)
	if now := strings.Fields(f.Manifests.Git("ls-remote", "origin", "refs/heads/main"))[0]; now != first {
		t.Errorf("main is at %s though the push failed", now)
	}

	theirs.Git("push", "--quiet", "origin", "HEAD")
	f.WaitSynced(theirs.Git("rev-parse", "HEAD"))
	f.WaitConfigMap("a", "2")
	whole, err := f.CloneAs(stack.User, f.Stack.Password, f.Manifests.Path)
	if err != nil {
		t.Fatal(err)
	}
	whole.Git("fsck", "--full")
}

func TestRorKilled_ForgetsNothing(t *testing.T) {
	f := env.New(t)
	u := f.NewUser("dev")
	f.SetAccess(u, f.Manifests.Path, harness.Reporter)
	revoked, err := f.Client().CreateToken(t.Context(), f.Config.Path, f.Agent.ID, "revoked")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Client().RevokeToken(t.Context(), f.Config.Path, f.Agent.ID, revoked.ID); err != nil {
		t.Fatal(err)
	}
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	before := f.WaitSynced(commit)

	// Without kas nobody tells ror anything anew.
	f.Stack.Kas.Kill()
	f.Stack.Ror.Kill()
	f.Start(f.Stack.Ror)
	after, err := f.Status()
	if err != nil {
		t.Fatal(err)
	}
	// That the agent is away is no memory but the truth.
	after.State, after.Connected, after.UpdatedAt = before.State, before.Connected, before.UpdatedAt
	if diff := cmp.Diff(before, after, protocmp.Transform(), protocmp.IgnoreFields(&syncstatus.ProjectStatus{}, "times")); diff != "" {
		t.Errorf("the status changed (-before +after):\n%s", diff)
	}
	for name, password := range map[string]string{"password": u.Password, "token": u.Token} {
		if _, err := f.CloneAs(u.Name, password, f.Manifests.Path); err != nil {
			t.Errorf("the %s does not open any more: %v", name, err)
		}
	}

	f.Start(f.Stack.Kas)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Change"))
	f.WaitConfigMap("a", "2")
	f.Token.Token = revoked.Token
	stranger := f.NewAgentk("revoked")
	f.Start(stranger)
	f.Eventually(func() error { return contains(stranger.LogTail(), "token unknown or revoked") })
}

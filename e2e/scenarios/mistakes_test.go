package scenarios

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

func TestMistake_BrokenYAML(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	f.WaitSynced(f.Manifests.Push("Good"))

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.Manifests.Git("rm", "--quiet", "b.yaml")
	f.Manifests.Write("broken.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: [\n")
	commit := f.Manifests.Push("Change a, delete b, break c")
	status := f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if s.GetAppliedCommit() != commit {
			return fmt.Errorf("applied commit is %q", s.GetAppliedCommit())
		}
		return harness.Is(syncstatus.State_STATE_PARTIAL, commit)(s)
	})
	if len(status.GetErrors()) != 1 || status.GetErrors()[0].GetPath() != "broken.yaml" || status.GetErrors()[0].GetLine() == 0 {
		t.Errorf("the errors are %v", status.GetErrors())
	}
	f.WaitConfigMap("a", "2") // the good files are applied
	f.WaitConfigMap("b", "1") // and nothing is pruned

	f.Manifests.Git("rm", "--quiet", "broken.yaml")
	f.WaitSynced(f.Manifests.Push("Mend"))
	f.ExpectGone("b")
}

func TestMistake_DuplicateObject(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("same", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("other", "1")+"---\n"+harness.ConfigMap("same", "2"))
	commit := f.Manifests.Push("The same object twice")
	status := f.WaitStatus(harness.Is(syncstatus.State_STATE_PARTIAL, commit))
	var text strings.Builder
	for _, e := range status.GetErrors() {
		fmt.Fprintf(&text, "%s:%d: %s\n", e.GetPath(), e.GetLine(), e.GetMessage())
	}
	if len(status.GetErrors()) != 1 || !strings.Contains(text.String(), "a.yaml:1") || !strings.Contains(text.String(), "b.yaml:8") {
		t.Errorf("the errors do not name both places:\n%s", text.String())
	}
	f.WaitConfigMap("other", "1")
}

func TestMistake_EmptyRepository(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if s.GetState() != syncstatus.State_STATE_PENDING {
			return fmt.Errorf("state is %s", s.GetState())
		}
		return contains(s.GetMessage(), "the repository is empty")
	})
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("First"))
}

func TestMistake_RepositoryBecomesEmpty(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))

	f.Manifests.Git("rm", "--quiet", "a.yaml", "b.yaml")
	commit := f.Manifests.Push("Delete everything")
	status := f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if s.GetAppliedCommit() != commit {
			return fmt.Errorf("applied commit is %q", s.GetAppliedCommit())
		}
		return harness.Is(syncstatus.State_STATE_PARTIAL, commit)(s)
	})
	if !strings.Contains(status.GetMessage(), "allow_empty") {
		t.Errorf("the message does not say how to go on: %q", status.GetMessage())
	}
	f.WaitConfigMap("a", "1")
	f.WaitConfigMap("b", "1")

	// Told so, it deletes.
	f.Configure("default_namespace: "+f.Name, "allow_empty: true")
	f.WaitSynced(commit)
	f.ExpectGone("a")
	f.ExpectGone("b")
}

func TestMistake_NoAccessToTheProject(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	// Somebody else's private project. The agent's creator is an administrator who may
	// see everything, so the agent is made by a user who may not.
	owner := f.NewUser("owner")
	f.UseAgentOf(owner)
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		return contains(s.GetMessage(), "may not read it")
	})
}

func TestMistake_WrongToken(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	good := f.Token.Token
	f.Token.Token = "glagent-wrong"
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	f.Eventually(func() error {
		return contains(f.Agentk.LogTail(), "token unknown or revoked")
	})
	// The right one, put into the file, is taken without a restart.
	if err := os.WriteFile(f.Agentk.TokenFile, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
}

func TestMistake_RevokedToken(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	if err := f.Client().RevokeToken(t.Context(), f.Config.Path, f.Agent.ID, f.Token.ID); err != nil {
		t.Fatal(err)
	}
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if s.GetState() != syncstatus.State_STATE_OFFLINE {
			return errors.New("not offline: " + s.GetState().String())
		}
		return nil
	})
	f.Eventually(func() error {
		return contains(f.Agentk.LogTail(), "token unknown or revoked")
	})
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.Manifests.Push("Change nobody may see")
	f.WaitConfigMap("a", "1")
}

func TestMistake_TypoInTheAgentsConfiguration(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))

	f.Configure("default_namespce: typo")
	f.Eventually(func() error {
		all, err := f.Client().SyncStatus(t.Context(), f.Config.Path, f.Agent.ID)
		if err != nil {
			return err
		}
		e := all.Configuration.GetError()
		if e.GetLine() != 4 || !strings.Contains(e.GetMessage(), "default_namespce") || !strings.HasSuffix(e.GetPath(), "config.yaml") {
			return fmt.Errorf("the configuration's error is %v", e)
		}
		return nil
	})
	// The last good configuration is in force.
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Change"))
	f.WaitConfigMap("a", "2")

	f.Configure("default_namespace: " + f.Name)
	f.Eventually(func() error {
		all, err := f.Client().SyncStatus(t.Context(), f.Config.Path, f.Agent.ID)
		if err != nil {
			return err
		}
		if all.Configuration.GetError() != nil {
			return fmt.Errorf("the error is still %v", all.Configuration.GetError())
		}
		return nil
	})
}

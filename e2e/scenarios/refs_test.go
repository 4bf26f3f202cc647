package scenarios

import (
	"strings"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

func TestRef_Branch(t *testing.T) {
	t.Parallel()
	f := env.New(t, "ref: {branch: production}")
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "main"))
	f.Manifests.Push("On main")
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		return contains(s.GetMessage(), "no branch production")
	})
	f.Manifests.Git("checkout", "--quiet", "-b", "production")
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "production"))
	status := f.WaitSynced(f.Manifests.Push("On production"))
	f.WaitConfigMap("a", "production")
	if status.GetRef() != "branch production" {
		t.Errorf("ref is %q", status.GetRef())
	}
}

func TestRef_TagMoves(t *testing.T) {
	t.Parallel()
	f := env.New(t, "ref: {tag: live}")
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	first := f.Manifests.Push("First")
	f.Manifests.Git("tag", "--annotate", "--message", "Live", "live")
	f.Manifests.Git("push", "--quiet", "origin", "live")
	f.WaitSynced(first)
	f.WaitConfigMap("a", "1")

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	second := f.Manifests.Push("Second")
	f.Manifests.Git("tag", "--force", "live")
	f.Manifests.Git("push", "--quiet", "--force", "origin", "live")
	f.WaitSynced(second)
	f.WaitConfigMap("a", "2")
}

func TestRef_CommitStays(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	first := f.Manifests.Push("First")
	f.WaitSynced(first)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Second"))
	f.WaitConfigMap("a", "2")

	// Back to the first one, by pinning it.
	f.Configure("default_namespace: "+f.Name, "ref: {commit: "+first+"}")
	status := f.WaitSynced(first)
	f.WaitConfigMap("a", "1")
	if status.GetRef() != "commit "+first {
		t.Errorf("ref is %q", status.GetRef())
	}
}

func TestRef_DefaultBranchForcePushed(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	first := f.Manifests.Push("First")
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	f.WaitSynced(f.Manifests.Push("Second"))
	f.Manifests.Git("reset", "--quiet", "--hard", first)
	f.Manifests.Git("push", "--quiet", "--force", "origin", "main")
	f.WaitSynced(first)
	f.ExpectGone("b")
}

// contains is an error unless s contains part.
func contains(s, part string) error {
	if !strings.Contains(s, part) {
		return &missingError{s, part}
	}
	return nil
}

type missingError struct{ s, part string }

func (e *missingError) Error() string { return "no " + e.part + " in " + e.s }

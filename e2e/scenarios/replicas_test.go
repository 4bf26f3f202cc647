package scenarios

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

func TestLeaderKilled_TheOtherReplicaTakesOver(t *testing.T) {
	t.Parallel()
	const objects = 20
	f := env.New(t)
	for i := range objects {
		name := fmt.Sprintf("cm-%02d", i)
		f.Manifests.Write(name+".yaml", harness.ConfigMap(name, "1"))
	}
	f.WaitSynced(f.Manifests.Push("Create")) // so it is this one that leads
	replica := f.NewAgentk("replica")
	f.Start(replica)
	f.Eventually(func() error {
		if f.Metrics(replica.MetricsURL).Sum("agentk_kas_connected") != 1 {
			return errors.New("the replica is not connected")
		}
		return nil
	})
	if f.Metrics(replica.MetricsURL).Sum("agentk_leader") != 0 {
		t.Fatal("both replicas lead")
	}
	changes := f.Changes()

	f.Agentk.Kill()
	f.Manifests.Write("cm-00.yaml", harness.ConfigMap("cm-00", "2"))
	f.Manifests.Git("rm", "--quiet", "cm-01.yaml")
	f.WaitSynced(f.Manifests.Push("Change one, delete one"))
	f.WaitConfigMap("cm-00", "2")
	f.ExpectGone("cm-01")
	if got := changes(); len(got) != 2 || got["cm-00"] != 1 || got["cm-01"] != 1 {
		t.Errorf("writes are %v, want one to cm-00 and one to cm-01", got)
	}

	// The one that was killed comes back and stands by.
	f.Start(f.Agentk)
	f.Manifests.Write("cm-00.yaml", harness.ConfigMap("cm-00", "3"))
	f.WaitSynced(f.Manifests.Push("Change one again"))
	if got := changes(); len(got) != 2 || got["cm-00"] != 2 {
		t.Errorf("writes are %v, want two to cm-00 and one to cm-01", got)
	}
}

func TestAgentkHangs_InTheMiddleOfASync(t *testing.T) {
	t.Parallel()
	const objects = 300
	f := env.New(t)
	for i := range objects {
		name := fmt.Sprintf("cm-%03d", i)
		f.Manifests.Write(name+".yaml", harness.ConfigMap(name, "1"))
	}
	changes := f.Changes()
	f.Manifests.Push("Create many")
	f.Eventually(func() error {
		if n := len(f.ConfigMapVersions()); n < 20 {
			return fmt.Errorf("%d ConfigMaps so far", n)
		}
		return nil
	})
	resume := f.Pause(f.Agentk.Process)
	f.Manifests.Write("cm-000.yaml", harness.ConfigMap("cm-000", "2"))
	commit := f.Manifests.Push("Change one while agentk hangs")
	f.Eventually(func() error { // kas goes on
		s, err := f.Status()
		if err != nil {
			return err
		}
		if s.GetWantedCommit() != commit {
			return fmt.Errorf("wanted commit is %q, want %q", s.GetWantedCommit(), commit)
		}
		return nil
	})
	resume()
	f.WaitSynced(commit)
	f.WaitConfigMap("cm-000", "2")
	writes := changes()
	if len(writes) != objects {
		t.Errorf("%d objects were written, want %d", len(writes), objects)
	}
	for name, n := range writes {
		if n > 1 && name != "cm-000" || n > 2 {
			t.Errorf("%s was written %d times", name, n)
		}
	}
}

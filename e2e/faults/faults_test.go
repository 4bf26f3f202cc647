package faults

import (
	"fmt"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/process"
)

// objects per sync: enough for a kill to land in the middle.
const objects = 300

func TestKilled_InTheMiddleOfASync(t *testing.T) {
	for name, victim := range map[string]func(*harness.Fixture) *process.Process{
		"kas":            func(f *harness.Fixture) *process.Process { return f.Stack.Kas },
		"agentk":         func(f *harness.Fixture) *process.Process { return f.Agentk.Process },
		"Gitaly":         func(f *harness.Fixture) *process.Process { return f.Gitaly.Process },
		"kube-apiserver": func(f *harness.Fixture) *process.Process { return controlPlane(f).APIServer },
		"etcd":           func(f *harness.Fixture) *process.Process { return controlPlane(f).Etcd },
		"ror":            func(f *harness.Fixture) *process.Process { return f.Stack.Ror },
	} {
		t.Run(name, func(t *testing.T) {
			f := env.New(t)
			f.Manifests.Write("first.yaml", harness.ConfigMap("first", "1"))
			f.WaitSynced(f.Manifests.Push("First"))

			for i := range objects {
				f.Manifests.Write(fmt.Sprintf("cm-%03d.yaml", i), harness.ConfigMap(fmt.Sprintf("cm-%03d", i), "1"))
			}
			commit := f.Manifests.Push("Create many")
			f.Eventually(func() error {
				if n := len(f.ConfigMapVersions()); n < 20 {
					return fmt.Errorf("%d ConfigMaps so far", n)
				}
				return nil
			})
			p := victim(f)
			p.Kill()
			f.Start(p)
			f.WaitSynced(commit)
			if n := len(f.ConfigMapVersions()); n != objects+1 {
				t.Errorf("%d ConfigMaps, want %d", n, objects+1)
			}

			// Nothing was lost from the inventory: what leaves the repository goes.
			// Half of it: of more, the prune guard would want to know whether it is meant.
			for i := 0; i < objects; i += 2 {
				f.Manifests.Git("rm", "--quiet", fmt.Sprintf("cm-%03d.yaml", i))
			}
			f.WaitSynced(f.Manifests.Push("Delete many"))
			if n := len(f.ConfigMapVersions()); n != objects/2+1 {
				t.Errorf("%d ConfigMaps are left, want %d", n, objects/2+1)
			}
		})
	}
}

func TestKasKilled_NothingThatDidNotChangeIsTouched(t *testing.T) {
	f := env.New(t)
	for i := range objects {
		f.Manifests.Write(fmt.Sprintf("cm-%03d.yaml", i), harness.ConfigMap(fmt.Sprintf("cm-%03d", i), "1"))
	}
	f.WaitSynced(f.Manifests.Push("Create many"))
	before := f.ConfigMapVersions()

	f.Stack.Kas.Kill()
	f.Manifests.Write("cm-000.yaml", harness.ConfigMap("cm-000", "2"))
	commit := f.Manifests.Push("Change one while kas is away")
	f.Start(f.Stack.Kas)
	f.WaitSynced(commit)
	for name, version := range f.ConfigMapVersions() {
		if changed := before[name] != version; changed != (name == "cm-000") {
			t.Errorf("%s: touched is %v", name, changed)
		}
	}
}

func TestAgentkKilled_NothingThatDidNotChangeIsTouched(t *testing.T) {
	f := env.New(t)
	for i := range objects {
		f.Manifests.Write(fmt.Sprintf("cm-%03d.yaml", i), harness.ConfigMap(fmt.Sprintf("cm-%03d", i), "1"))
	}
	f.WaitSynced(f.Manifests.Push("Create many"))
	before := f.ConfigMapVersions()

	f.Agentk.Kill()
	f.Manifests.Write("cm-000.yaml", harness.ConfigMap("cm-000", "2"))
	commit := f.Manifests.Push("Change one while agentk is away")
	f.Start(f.Agentk)
	f.WaitSynced(commit)
	for name, version := range f.ConfigMapVersions() {
		if changed := before[name] != version; changed != (name == "cm-000") {
			t.Errorf("%s: touched is %v", name, changed)
		}
	}
}

// controlPlane skips the test where the cluster is not ours to break.
func controlPlane(f *harness.Fixture) *sandbox.ControlPlane {
	f.T.Helper()
	if f.Cluster.ControlPlane == nil {
		f.T.Skip(harness.ErrNoControlPlane)
	}
	return f.Cluster.ControlPlane
}

package scenarios

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

// twoProjects is a configuration file with the fixture's manifest project between
// two others.
func twoProjects(f *harness.Fixture, before, after string) string {
	return "gitops:\n  manifest_projects:\n" + before +
		"  - id: " + f.Manifests.Path + "\n    default_namespace: " + f.Name + "\n" + after
}

func TestProjects_OneThatIsBrokenDelaysNoOther(t *testing.T) {
	t.Parallel()
	f := env.NewStopped(t)
	owner := f.NewUser("owner")
	f.UseAgentOf(owner) // who may see neither of the private projects that are not theirs
	f.SetAccess(owner, f.Manifests.Path, harness.Reporter)
	hidden := f.NewRepo("hidden", "private")
	branchless := f.NewRepo("branchless", "public")
	branchless.Write("a.yaml", harness.ConfigMap("other", "1"))
	branchless.Push("First")
	f.ConfigureFile(twoProjects(f,
		"  - id: "+hidden.Path+"\n",
		"  - id: "+branchless.Path+"\n    ref: {branch: not-there}\n"))
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)

	for _, value := range []string{"1", "2"} {
		f.Manifests.Write("a.yaml", harness.ConfigMap("a", value))
		f.WaitSynced(f.Manifests.Push("Set to " + value))
		f.WaitConfigMap("a", value)
	}
	f.WaitStatusOf(hidden.Path, func(s *syncstatus.ProjectStatus) error { return contains(s.GetMessage(), "may not read it") })
	f.WaitStatusOf(branchless.Path, func(s *syncstatus.ProjectStatus) error { return contains(s.GetMessage(), "no branch not-there") })
	f.ExpectGone("other")
}

func TestProject_RemovedFromTheConfigurationAndAddedAgain(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	stays := f.NewRepo("stays", "private")
	stays.Write("s.yaml", harness.ConfigMap("stays", "1"))
	other := stays.Push("First")
	entry := "  - id: " + stays.Path + "\n    default_namespace: " + f.Name + "\n"
	both := twoProjects(f, "", entry)
	f.ConfigureFile(both)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	commit := f.Manifests.Push("Create")
	f.WaitSynced(commit)
	f.WaitStatusOf(stays.Path, harness.Is(syncstatus.State_STATE_SYNCED, other))
	changes := f.Changes()

	f.ConfigureFile("gitops:\n  manifest_projects:\n" + entry)
	f.Eventually(func() error {
		if _, err := f.Status(); !errors.Is(err, harness.ErrNoStatus) {
			return fmt.Errorf("the status of what was removed is still told (error %w)", err)
		}
		_, err := f.StatusOf(stays.Path)
		return err
	})
	f.WaitConfigMap("a", "1")
	f.WaitConfigMap("b", "1")

	f.ConfigureFile(both)
	status := f.WaitSynced(commit)
	for _, o := range status.GetObjects() {
		if o.GetAction() != syncstatus.Action_ACTION_UNCHANGED {
			t.Errorf("%s is %s", o.GetId().GetName(), o.GetAction())
		}
	}
	if touched := changes(); len(touched) != 0 {
		t.Errorf("objects were touched: %v", touched)
	}
	// It is whose it was: what leaves the repository goes.
	f.Manifests.Git("rm", "--quiet", "b.yaml")
	f.WaitSynced(f.Manifests.Push("Delete"))
	f.ExpectGone("b")
}

func TestConfiguration_IsNotThereYet(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*harness.Fixture){
		"the project is empty": func(*harness.Fixture) {},
		"the project has other files": func(f *harness.Fixture) {
			f.Config.Write("README.md", "# Agents\n")
			f.Config.Push("First")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := env.NewUnconfigured(t)
			prepare(f)
			f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
			commit := f.Manifests.Push("Create")
			f.Agentk = f.NewAgentk("agentk")
			f.Start(f.Agentk)
			f.Eventually(func() error {
				all, err := f.Client().SyncStatus(t.Context(), f.Config.Path, f.Agent.ID)
				if err != nil {
					return err
				}
				return contains(all.Configuration.GetError().GetMessage(), "create .gitlab/agents/"+f.Name+"/config.yaml")
			})
			f.Configure("default_namespace: " + f.Name)
			f.WaitSynced(commit)
			f.WaitConfigMap("a", "1")
			all, err := f.Client().SyncStatus(t.Context(), f.Config.Path, f.Agent.ID)
			if err != nil {
				t.Fatal(err)
			}
			if e := all.Configuration.GetError(); e != nil {
				t.Errorf("the configuration's error is still %v", e)
			}
		})
	}
}

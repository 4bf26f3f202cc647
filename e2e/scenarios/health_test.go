package scenarios

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

// healthConfig is a configuration that judges widgets by an expression.
func healthConfig(f *harness.Fixture, current string) string {
	return "gitops:\n  manifest_projects:\n  - id: " + f.Manifests.Path + "\n    default_namespace: " + f.Name + `
    health_checks:
    - group: ` + f.Name + `.example.com
      kind: Widget
      failed: status.phase == 'Broken'
      current: ` + current + "\n"
}

func widgetCRD(group string) string {
	return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: widgets." + group +
		"\nspec:\n  group: " + group + "\n  scope: Namespaced\n  names: {kind: Widget, listKind: WidgetList, plural: widgets, singular: widget}\n" +
		"  versions:\n  - name: v1\n    served: true\n    storage: true\n    subresources: {status: {}}\n" +
		"    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}\n"
}

// setPhase is the widget's controller.
func setPhase(f *harness.Fixture, group, phase string) {
	f.T.Helper()
	err := f.Kube.AppsV1().RESTClient().Patch(types.MergePatchType).
		AbsPath("/apis/" + group + "/v1/namespaces/" + f.Name + "/widgets/w/status").
		Body([]byte(`{"status":{"phase":"` + phase + `"}}`)).Do(f.T.Context()).Error()
	if err != nil {
		f.T.Fatal(err)
	}
}

// widgetIs is a check for a widget's health in a project of that state.
func widgetIs(state syncstatus.State, commit string, health syncstatus.Health) func(*syncstatus.ProjectStatus) error {
	return func(s *syncstatus.ProjectStatus) error {
		if err := harness.Is(state, commit)(s); err != nil {
			return err
		}
		if got := harness.Object(s, "Widget", "w").GetHealth(); got != health {
			return fmt.Errorf("the widget is %s, want %s", got, health)
		}
		return nil
	}
}

func TestHealth_ByExpressionsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	f := env.NewUnconfigured(t)
	group := f.Name + ".example.com"
	f.ConfigureFile(healthConfig(f, "status.phase == 'Ready'"))
	f.Agentk = f.NewAgentk("agentk")
	f.Start(f.Agentk)
	f.Manifests.Write("crd.yaml", widgetCRD(group))
	f.Manifests.Write("widget.yaml", "apiVersion: "+group+"/v1\nkind: Widget\nmetadata:\n  name: w\n")
	commit := f.Manifests.Push("A kind and an object of it")
	f.WaitStatus(widgetIs(syncstatus.State_STATE_PROGRESSING, commit, syncstatus.Health_HEALTH_IN_PROGRESS))
	setPhase(f, group, "Ready")
	f.WaitStatus(widgetIs(syncstatus.State_STATE_SYNCED, commit, syncstatus.Health_HEALTH_CURRENT))
	setPhase(f, group, "Broken")
	f.WaitStatus(widgetIs(syncstatus.State_STATE_PARTIAL, commit, syncstatus.Health_HEALTH_FAILED))

	// An expression that is none names its line, and the last good ones stay in force.
	broken := f.ConfigureFile(healthConfig(f, "status.phase =="))
	f.Eventually(func() error {
		all, err := f.Client().SyncStatus(t.Context(), f.Config.Path, f.Agent.ID)
		if err != nil {
			return err
		}
		e := all.Configuration.GetError()
		if e == nil {
			return errors.New("the configuration has no error yet")
		}
		if e.GetPath() != ".gitlab/agents/"+f.Name+"/config.yaml" || e.GetLine() != 9 || !strings.Contains(e.GetMessage(), "current") {
			t.Errorf("commit %s: the error is %v", broken, e)
		}
		return nil
	})
	setPhase(f, group, "Ready")
	f.WaitStatus(widgetIs(syncstatus.State_STATE_SYNCED, commit, syncstatus.Health_HEALTH_CURRENT))

	// Another expression judges what is there already.
	f.ConfigureFile(healthConfig(f, "status.phase == 'Done'"))
	f.WaitStatus(widgetIs(syncstatus.State_STATE_PROGRESSING, commit, syncstatus.Health_HEALTH_IN_PROGRESS))
	setPhase(f, group, "Done")
	f.WaitStatus(widgetIs(syncstatus.State_STATE_SYNCED, commit, syncstatus.Health_HEALTH_CURRENT))
}

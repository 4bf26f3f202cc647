package scenarios

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

// renderedProject is an overlay of ../base and a chart with a values file.
func renderedProject(f *harness.Fixture) {
	f.Manifests.Write("base/kustomization.yaml", "resources: [config.yaml]\n")
	f.Manifests.Write("base/config.yaml", harness.ConfigMap("config", "1"))
	f.Manifests.Write("overlays/production/kustomization.yaml", "resources: [../../base]\nnamePrefix: production-\n")
	f.Manifests.Write("charts/web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\n")
	f.Manifests.Write("charts/web/values.yaml", "key: default\n")
	f.Manifests.Write("charts/web/templates/web.yaml", harness.ConfigMap("{{ .Release.Name }}", "{{ .Values.key }}"))
	f.Manifests.Write("charts/web/templates/more.yaml", "{{ if .Values.more }}\n"+harness.ConfigMap("{{ .Release.Name }}-more", "1")+"{{ end }}\n")
	f.Manifests.Write("values/production.yaml", "key: production\nmore: true\n")
	f.Manifests.Write("plain/plain.yaml", harness.ConfigMap("plain", "1"))
}

const renderedPaths = `paths: [{glob: "/plain/*"}, {kustomize: {path: overlays/production}}, {helm: {chart: charts/web, values_files: [values/production.yaml], release_name: front}}]`

func TestRender_KustomizeAndHelm(t *testing.T) {
	t.Parallel()
	f := env.New(t, renderedPaths)
	renderedProject(f)
	status := f.WaitSynced(f.Manifests.Push("An overlay and a chart"))
	f.WaitConfigMap("production-config", "1")
	f.WaitConfigMap("front", "production")
	f.WaitConfigMap("front-more", "1")
	f.WaitConfigMap("plain", "1")
	for name, want := range map[string]string{
		"production-config": "base/config.yaml:1", "front": "charts/web/templates/web.yaml:2", "front-more": "charts/web/templates/more.yaml:3", "plain": "plain/plain.yaml:1",
	} {
		o := harness.Object(status, "ConfigMap", name)
		if got := fmt.Sprintf("%s:%d", o.GetSourcePath(), o.GetSourceLine()); got != want {
			t.Errorf("%s is said to come from %s, not %s", name, got, want)
		}
	}
	front := f.ConfigMap("front")

	f.Manifests.Write("base/config.yaml", harness.ConfigMap("config", "2"))
	f.WaitSynced(f.Manifests.Push("Change the base"))
	f.WaitConfigMap("production-config", "2")
	if f.ConfigMap("front").ResourceVersion != front.ResourceVersion {
		t.Error("the chart's object was touched though it did not change")
	}

	f.Manifests.Write("values/production.yaml", "key: changed\n")
	f.WaitSynced(f.Manifests.Push("Change the values"))
	f.WaitConfigMap("front", "changed")
	f.ExpectGone("front-more")
}

func TestRender_ABrokenTemplateNamesItsFileAndPrunesNothing(t *testing.T) {
	t.Parallel()
	f := env.New(t, renderedPaths)
	renderedProject(f)
	f.WaitSynced(f.Manifests.Push("An overlay and a chart"))

	f.Manifests.Write("charts/web/templates/web.yaml", "a: b\n\n{{ fail `set a key` }}\n")
	f.Manifests.Write("plain/plain.yaml", harness.ConfigMap("plain", "2"))
	f.Manifests.Write("base/kustomization.yaml", "resources: []\nnamePrefix: none\n")
	commit := f.Manifests.Push("Break the template, change and remove others")
	status := f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if s.GetAppliedCommit() != commit {
			return fmt.Errorf("applied commit is %q", s.GetAppliedCommit())
		}
		return harness.Is(syncstatus.State_STATE_PARTIAL, commit)(s)
	})
	if e := status.GetErrors(); len(e) != 1 || e[0].GetPath() != "charts/web/templates/web.yaml" || e[0].GetLine() != 3 || !strings.Contains(e[0].GetMessage(), "set a key") {
		t.Errorf("the errors are %v", e)
	}
	f.WaitConfigMap("plain", "2") // the rest is applied
	f.WaitConfigMap("front", "production")
	f.WaitConfigMap("front-more", "1")
	f.WaitConfigMap("production-config", "1") // and nothing is pruned

	f.Manifests.Write("charts/web/templates/web.yaml", harness.ConfigMap("{{ .Release.Name }}", "mended"))
	f.WaitSynced(f.Manifests.Push("Mend"))
	f.WaitConfigMap("front", "mended")
	f.ExpectGone("production-config")
}

func TestRender_AKustomizationNobodyAskedForSaysHow(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	renderedProject(f)
	commit := f.Manifests.Push("No entries")
	status := f.WaitStatus(harness.Is(syncstatus.State_STATE_PARTIAL, commit))
	var text strings.Builder
	for _, e := range status.GetErrors() {
		text.WriteString(e.GetMessage() + "\n")
	}
	for _, want := range []string{`add "- kustomize: {path: overlays/production}" to paths`, `add "- helm: {chart: charts/web}" to paths`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no error says %s:\n%s", want, text.String())
		}
	}
}

// A template that would take all memory ends its own rendering, and nothing else.
func TestRender_AChartThatAsksForAllMemoryHarmsNobody(t *testing.T) {
	t.Parallel()
	f := env.New(t, renderedPaths)
	renderedProject(f)
	f.WaitSynced(f.Manifests.Push("An overlay and a chart"))
	restarts := f.Stack.Kas.PID()

	f.Manifests.Write("charts/web/templates/web.yaml", "{{ range until 1000000000 }}{{ end }}\n")
	f.Manifests.Write("plain/plain.yaml", harness.ConfigMap("plain", "2"))
	commit := f.Manifests.Push("Ask for 8 GB")
	f.WaitConfigMap("plain", "2")
	status := f.WaitStatus(harness.Is(syncstatus.State_STATE_PARTIAL, commit))
	if errs := status.GetErrors(); len(errs) != 1 || errs[0].GetPath() != "charts/web/Chart.yaml" || !strings.Contains(errs[0].GetMessage(), "rendering takes more memory than the limit of 1024 MiB") {
		t.Errorf("the errors are %v", errs)
	}
	f.ConfigMap("front")
	f.ConfigMap("production-config")
	if f.Stack.Kas.PID() != restarts {
		t.Error("kas was started anew")
	}
}

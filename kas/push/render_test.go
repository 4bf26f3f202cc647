package push_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

func kustomizePath(dir string) *agentcfg.PathCfg {
	return &agentcfg.PathCfg{Kustomize: &agentcfg.Kustomize{Path: dir}}
}

func helmPath(h *agentcfg.Helm) *agentcfg.PathCfg { return &agentcfg.PathCfg{Helm: h} }

// follow opens a stream for paths, for agent number 1.
func (h *harness) follow(paths ...*agentcfg.PathCfg) *agent {
	h.t.Helper()
	a := h.dial("agent-1")
	a.hello(&agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: projectPath, Paths: paths}})
	return a
}

func rendered() map[string]string {
	return map[string]string{
		"base/kustomization.yaml":      "resources: [a.yaml]\n",
		"base/a.yaml":                  configMap("a", "1"),
		"overlay/kustomization.yaml":   "resources: [../base]\nnamePrefix: p-\n",
		"overlay/not-a-resource.yaml":  configMap("left-out", "1"),
		"chart/Chart.yaml":             "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
		"chart/templates/c.yaml":       configMap("{{ .Release.Name }}", "{{ .Values.key }}"),
		"values.yaml":                  "key: from-values\n",
		"plain/b.yaml":                 configMap("b", "1"),
		"plain/other/values-like.yaml": configMap("d", "1"),
	}
}

func rendersAll() []*agentcfg.PathCfg {
	return []*agentcfg.PathCfg{
		kustomizePath("overlay"), {Glob: "/plain/**/*.yaml"}, {Glob: "/{overlay,chart,values}*/**/*.yaml"}, {Glob: "/values.yaml"},
		helmPath(&agentcfg.Helm{Chart: "chart", ValuesFiles: []string{"values.yaml"}, ReleaseName: "web"}), kustomizePath("/overlay/"),
	}
}

func TestConnect_RendersBesideGlobs(t *testing.T) {
	h := start(t)
	h.repo.commit("one", rendered())
	a := h.follow(rendersAll()...)
	got := a.receive()
	require.Empty(t, got.trailer.GetErrors())
	assert.True(t, got.trailer.GetComplete())
	slices.Sort(got.refs)
	assert.Equal(t, []string{"base/a.yaml:1", "chart/templates/c.yaml:2", "plain/b.yaml:1", "plain/other/values-like.yaml:1"}, got.refs)
	all := strings.Join(got.fresh, "\n")
	assert.Contains(t, all, `"name":"p-a"`)
	assert.Contains(t, all, `"key":"from-values"`)
	assert.NotContains(t, all, "left-out")

	// What did not change is neither rendered nor fetched again.
	_, _, before := h.repo.counts()
	files := maps.Clone(rendered())
	files["plain/b.yaml"] = configMap("b", "2")
	h.repo.commit("two", files)
	assert.Len(t, a.receive().fresh, 1)
	_, _, after := h.repo.counts()
	assert.Equal(t, 1, after-before)

	files = maps.Clone(files)
	files["base/a.yaml"] = configMap("a", "2")
	h.repo.commit("three", files)
	got = a.receive()
	require.Len(t, got.fresh, 1)
	assert.Contains(t, got.fresh[0], `"name":"p-a"`)
}

func TestConnect_ARenderingThatFailsLeavesTheRestAndIsIncomplete(t *testing.T) {
	h := start(t)
	files := rendered()
	files["chart/templates/c.yaml"] = "a: b\n{{ fail `no` }}\n"
	h.repo.commit("one", files)
	a := h.follow(rendersAll()...)
	got := a.receive()
	assert.False(t, got.trailer.GetComplete())
	require.Len(t, got.trailer.GetErrors(), 1)
	e := got.trailer.GetErrors()[0]
	assert.Equal(t, "chart/templates/c.yaml", e.GetPath())
	assert.EqualValues(t, 2, e.GetLine())
	assert.Contains(t, e.GetMessage(), "Helm: execution error")
	assert.Len(t, got.refs, 3)

	h.repo.commit("two", rendered())
	got = a.receive()
	assert.True(t, got.trailer.GetComplete())
	assert.Len(t, got.refs, 4)
}

func TestConnect_RenderedAloneNeedsNoGlob(t *testing.T) {
	h := start(t)
	h.repo.commit("one", rendered())
	a := h.follow(kustomizePath("overlay"))
	assert.Equal(t, []string{"base/a.yaml:1"}, a.receive().refs)
	h.repo.commit("two", map[string]string{"overlay/kustomization.yaml": "configMapGenerator: []\nnamePrefix: p-\n"})
	assert.Empty(t, a.receive().refs)
	h.eventually(1, func(s *syncstatus.ProjectStatus) bool {
		return s.GetMessage() == "neither what is rendered nor the files that the globs select hold an object: push manifests"
	})
}

func TestConnect_RefusesEntriesThatCannotBe(t *testing.T) {
	h := start(t)
	for name, row := range map[string]struct {
		path *agentcfg.PathCfg
		want string
	}{
		"two in one":        {&agentcfg.PathCfg{Glob: "x", Helm: &agentcfg.Helm{Chart: "x"}}, "Hello: project.paths: entry 1: glob, kustomize and helm exclude each other"},
		"a way out":         {kustomizePath("../x"), `Hello: project.paths: entry 1: kustomize.path "../x" leads out of the repository`},
		"a bad release":     {helmPath(&agentcfg.Helm{Chart: "x", ReleaseName: "X"}), `Hello: project.paths: entry 1: helm.release_name "X" is no name`},
		"nothing in a glob": {&agentcfg.PathCfg{}, `Hello: project.paths: glob "" names no file`},
	} {
		t.Run(name, func(t *testing.T) {
			err := h.follow(row.path).ending()
			assert.Equal(t, codes.InvalidArgument, status.Code(err))
			assert.Contains(t, err.Error(), row.want)
		})
	}
}

package render

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/release"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/kas-agentk/kas/manifests"
)

// KubeVersion is what charts are told of the cluster's version: kas does not ask it. It is
// that of the Kubernetes libraries that kas is built with.
const KubeVersion = "v1.36.0"

const chartFile = "Chart.yaml"

// helm renders a chart. Nothing is returned where there are mistakes.
func (b *bench) helm(e Entry) []manifests.Object {
	c := b.loadChart(e)
	if c == nil {
		return nil
	}
	values, ok := b.values(e, c)
	if !ok {
		return nil
	}
	h := &chartRender{bench: b, entry: e, chart: c, file: path.Join(e.dir, chartFile)}
	texts, err := engine.Engine{}.Render(c, values)
	if err != nil {
		h.templateMistake(err)
		return nil
	}
	objects := h.crds()
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if path.Base(name) == "NOTES.txt" || strings.HasPrefix(path.Base(name), "_") || strings.TrimSpace(texts[name]) == "" {
			continue
		}
		objects = append(objects, h.objects(name, texts[name])...)
		if len(objects) > b.limits.MaxObjects {
			b.mistake(h.file, 1, "what is rendered has more objects than the limit of %d", b.limits.MaxObjects)
			return nil
		}
	}
	return objects
}

func capabilities() *chartutil.Capabilities {
	c := chartutil.DefaultCapabilities.Copy()
	if v, err := chartutil.ParseKubeVersion(KubeVersion); err == nil {
		c.KubeVersion = *v
	}
	return c
}

// chartRender turns what a chart's templates gave into objects.
type chartRender struct {
	bench *bench
	entry Entry
	chart *chart.Chart
	file  string // Chart.yaml
}

// crds returns the objects of the crds directories, which are not templates.
func (h *chartRender) crds() []manifests.Object {
	var objects []manifests.Object
	for _, crd := range h.chart.CRDObjects() {
		result := manifests.ParseFile(h.source(crd.Filename), crd.File.Data, h.bench.limits)
		objects = append(objects, result.Objects...)
		h.bench.add(result.Errors...)
	}
	return objects
}

// objects reads what one template gave. Each object is said to stand at the line of the
// template where its kind is written, as far as that can be found.
func (h *chartRender) objects(name, text string) []manifests.Object {
	source := h.source(name)
	kinds := map[string]int{}
	var lines []int
	edit := func(o map[string]any) bool {
		kind, _ := o["kind"].(string)
		kinds[kind]++
		if isOtherHook(o) {
			return false
		}
		h.setNamespace(o)
		lines = append(lines, h.lineOfKind(source, kind, kinds[kind]))
		return true
	}
	objects, mistakes := manifests.ParseRendered(manifests.Position{Path: source}, []byte(text), h.bench.limits, false, edit)
	h.bench.add(mistakes...)
	for i := range objects {
		objects[i].Position.Line = 1
		if len(lines) == len(objects) { // else some of them are mistakes
			objects[i].Position.Line = lines[i]
		}
	}
	return objects
}

// isOtherHook tells whether an object is made by Helm only for tests, deletions and
// rollbacks: it must not be there otherwise.
func isOtherHook(o map[string]any) bool {
	metadata, _ := o["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	hooks, isHook := annotations[release.HookAnnotation].(string)
	if !isHook {
		return false
	}
	for hook := range strings.SplitSeq(hooks, ",") {
		switch release.HookEvent(strings.TrimSpace(hook)) {
		case release.HookTest, "test-success", "test-failure", release.HookPreDelete, release.HookPostDelete, release.HookPreRollback, release.HookPostRollback:
		default:
			return false
		}
	}
	return true
}

// setNamespace puts an object that names no namespace into the release's, where that is
// another than the project's. In the cluster a namespace of what has none is dropped.
func (h *chartRender) setNamespace(o map[string]any) {
	metadata, _ := o["metadata"].(map[string]any)
	if !h.entry.setsMissing || metadata == nil || metadata["namespace"] != nil && metadata["namespace"] != "" {
		return
	}
	apiVersion, _ := o["apiVersion"].(string)
	kind, _ := o["kind"].(string)
	if namespaced, known := openapi.IsNamespaceScoped(kyaml.TypeMeta{APIVersion: apiVersion, Kind: kind}); known && !namespaced {
		return
	}
	metadata["namespace"] = h.entry.namespace
}

// lineOfKind returns the line of the template that says "kind: K" for the nth time; of the
// last such, or 1.
func (h *chartRender) lineOfKind(source, kind string, nth int) int {
	number, found := 0, 1
	for line := range strings.Lines(string(h.bench.data[source])) {
		number++
		if rest, ok := strings.CutPrefix(line, "kind:"); ok && kind != "" && strings.Trim(strings.TrimSpace(rest), `"'`) == kind {
			found = number
			if nth--; nth <= 0 {
				break
			}
		}
	}
	return found
}

// source returns the repository's file that a chart's file is from. Charts within a chart
// may be directories or archives.
func (h *chartRender) source(name string) string {
	rest := strings.TrimPrefix(name, h.chart.ChartFullPath()+"/")
	if file := path.Join(h.entry.dir, rest); h.bench.tree.isFile(file) {
		return file
	}
	if below, ok := strings.CutPrefix(rest, "charts/"); ok {
		sub, _, _ := strings.Cut(below, "/")
		charts := path.Join(h.entry.dir, "charts")
		for _, file := range h.bench.tree.below(charts, h.bench.limits.MaxFiles) {
			if base := path.Base(file); path.Dir(file) == charts && strings.HasPrefix(base, sub) && path.Ext(base) == ".tgz" {
				return file
			}
		}
	}
	return h.file
}

var templatePlace = regexp.MustCompile(`\(?([^\s():]+\.[a-zA-Z]+|[^\s():]+/templates/[^\s():]+):(\d+)(?::\d+)?\)?:? ?`)

// templateMistake words what the template engine said.
func (h *chartRender) templateMistake(err error) {
	file, line, message := h.file, 1, err.Error()
	for _, m := range templatePlace.FindAllStringSubmatchIndex(message, -1) {
		name := message[m[2]:m[3]]
		if source := h.source(name); strings.HasPrefix(name, h.chart.ChartFullPath()+"/") {
			file = source
			if strings.HasSuffix(source, path.Base(name)) {
				line, _ = strconv.Atoi(message[m[4]:m[5]])
			}
			break
		}
	}
	h.bench.mistake(file, line, "Helm: %s", shorten(message))
}

// checkChart says what keeps a chart from being rendered as a whole.
func checkChart(c *chart.Chart, caps *chartutil.Capabilities) error {
	switch {
	case c.Metadata.Type == "library":
		return fmt.Errorf("chart %s is a library, of which nothing is rendered: name a chart that uses it", c.Name())
	case c.Metadata.KubeVersion != "" && !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, caps.KubeVersion.String()):
		return fmt.Errorf("chart %s wants Kubernetes %s, and is rendered for %s", c.Name(), c.Metadata.KubeVersion, caps.KubeVersion.String())
	}
	var missing []string
	for _, dependency := range c.Metadata.Dependencies {
		there := slices.ContainsFunc(c.Dependencies(), func(d *chart.Chart) bool { return d.Name() == dependency.Name })
		if !there {
			missing = append(missing, dependency.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the charts directory lacks %s, on which %s depends: run \"helm dependency build\" and commit what it puts there", strings.Join(missing, ", "), c.Name())
	}
	return nil
}

package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

func helm(t *testing.T, c Chart) Entry {
	t.Helper()
	if c.DefaultNamespace == "" {
		c.DefaultNamespace = "default"
	}
	e, err := Helm(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const chartYAML = "apiVersion: v2\nname: web\nversion: 1.0.0\n"

func chartFiles() repository {
	return repository{
		"charts/web/Chart.yaml":  chartYAML + "dependencies:\n- name: db\n  version: 1.0.0\n- name: packed\n  version: 1.0.0\n- name: unused\n  version: 1.0.0\n  condition: unused.enabled\n",
		"charts/web/values.yaml": "size: 1\nunused: {enabled: false}\ndb: {name: main}\nnested: {a: 1, b: 2}\n",
		"charts/web/templates/all.yaml": `{{- /* two objects */}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-one
data:
  size: {{ .Values.size | quote }}
  nested: {{ printf "%v/%v" .Values.nested.a .Values.nested.b }}
  namespace: {{ .Release.Namespace }}
  version: {{ .Capabilities.KubeVersion.Version }}
  nothing: {{ lookup "v1" "Secret" "a" "b" | toJson | quote }}
---
{{ if gt (int .Values.size) 1 }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "web.name" . }}-two
{{ end }}
`,
		"charts/web/templates/_helpers.tpl":              `{{ define "web.name" }}{{ .Release.Name }}{{ end }}`,
		"charts/web/templates/NOTES.txt":                 "thank you",
		"charts/web/templates/role.yaml":                 "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\n",
		"charts/web/templates/ignored.bak":               "{{ fail `not ignored` }}",
		"charts/web/templates/hooks.yaml":                hook("test") + "---\n" + hook("pre-install,post-upgrade") + "---\n" + hook("pre-delete"),
		"charts/web/crds/crd.yaml":                       "# a CRD\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: xs.example.com}\n",
		"charts/web/.helmignore":                         "*.bak\n",
		"charts/web/charts/db/Chart.yaml":                "apiVersion: v2\nname: db\nversion: 1.0.0\n",
		"charts/web/charts/db/templates/db.yaml":         strings.Replace(configMap("db-x"), "db-x", "db-{{ .Values.name }}", 1),
		"charts/web/charts/packed-1.0.0.tgz":             archive(map[string]string{"packed/Chart.yaml": "apiVersion: v2\nname: packed\nversion: 1.0.0\n", "packed/templates/p.yaml": configMap("packed")}),
		"charts/web/charts/unused/Chart.yaml":            "apiVersion: v2\nname: unused\nversion: 1.0.0\n",
		"charts/web/charts/unused/templates/nothing.yml": configMap("unused"),
		"values/production.yaml":                         "size: 2\nnested: {b: 3}\n",
		"values/last.yaml":                               "size: 3\n",
	}
}

func hook(events string) string {
	return "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: job-" + strings.ReplaceAll(events, ",", "-") + "\n  annotations: {helm.sh/hook: \"" + events + "\"}\n"
}

func archive(files map[string]string) string {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data := files[name]
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
		_, _ = w.Write([]byte(data))
	}
	_ = w.Close()
	_ = zip.Close()
	return out.String()
}

func TestRender_HelmGivesWhatHelmTemplateGives(t *testing.T) {
	files := chartFiles()
	entry := helm(t, Chart{Dir: "charts/web", ValuesFiles: []string{"values/production.yaml", "/values/last.yaml"}, Release: "prod", Namespace: "live"})
	result, err := renderer().Render(t.Context(), entry, files.tree(), files.load)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"charts/web/charts/db/templates/db.yaml:2 ConfigMap live/db-main",
		"charts/web/charts/packed-1.0.0.tgz:1 ConfigMap live/packed",
		"charts/web/crds/crd.yaml:2 CustomResourceDefinition /xs.example.com",
		"charts/web/templates/all.yaml:15 ConfigMap live/prod-two",
		"charts/web/templates/all.yaml:3 ConfigMap live/prod-one",
		"charts/web/templates/hooks.yaml:8 Job live/job-pre-install-post-upgrade",
		"charts/web/templates/role.yaml:2 ClusterRole /r",
	}, told(&result)); diff != "" {
		t.Fatal(diff)
	}
	for _, o := range result.File.Objects {
		if o.ID.Name == "prod-one" {
			const want = `"data":{"namespace":"live","nested":"1/3","nothing":"{}","size":"3","version":"` + KubeVersion + `"}`
			if !strings.Contains(string(o.JSON), want) {
				t.Errorf("got %s", o.JSON)
			}
		}
	}
	if result.File.Objects[0].ID.GroupKind.Kind != "CustomResourceDefinition" || result.File.Path != "charts/web/Chart.yaml" {
		t.Errorf("first is %v of %s", result.File.Objects[0].ID, result.File.Path)
	}
}

func TestRender_HelmLeavesTheProjectsNamespaceToTheAgent(t *testing.T) {
	files := repository{"Chart.yaml": chartYAML, "templates/a.yaml": configMap("a")}
	entry := helm(t, Chart{Dir: "/", Release: "x"})
	result, err := renderer().Render(t.Context(), entry, files.tree(), files.load)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"templates/a.yaml:2 ConfigMap /a"}, told(&result)); diff != "" {
		t.Error(diff)
	}
}

func TestKubeVersion_IsThatOfTheLibraries(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Skip("built without module information")
	}
	for _, m := range info.Deps {
		if m.Path == "k8s.io/client-go" && !strings.HasPrefix(m.Version, "v0."+strings.Split(KubeVersion, ".")[1]+".") {
			t.Errorf("client-go is %s, and charts are told %s", m.Version, KubeVersion)
		}
	}
}

func TestRender_HelmMistakes(t *testing.T) {
	const schema = `{"$schema": "https://json-schema.org/draft-07/schema#", "properties": {"replicas": {"type": "integer"}}}`
	for name, row := range map[string]struct {
		files repository
		want  []string // beginnings
	}{
		"no chart":               {repository{"web/x": ""}, []string{"web/Chart.yaml: no such file: correct the helm entry"}},
		"a chart without a name": {repository{"web/Chart.yaml": "apiVersion: v2\nversion: 1.0.0\n"}, []string{"web/Chart.yaml:1: the chart cannot be loaded: validation: chart.metadata.name is required"}},
		"a Chart.yaml that is no YAML": {
			repository{"web/Chart.yaml": "apiVersion: v2\n\tname: x\n"}, []string{"web/Chart.yaml:2: a tab is used"},
		},
		"a values.yaml that is no YAML": {
			repository{"web/Chart.yaml": chartYAML, "web/values.yaml": "a: 1\nb: [\n"}, []string{"web/values.yaml:2: not valid YAML"},
		},
		"a library": {
			repository{"web/Chart.yaml": chartYAML + "type: library\n"}, []string{"web/Chart.yaml:1: chart web is a library"},
		},
		"another Kubernetes": {
			repository{"web/Chart.yaml": chartYAML + "kubeVersion: '<1.20'\n"}, []string{"web/Chart.yaml:1: chart web wants Kubernetes <1.20, and is rendered for " + KubeVersion},
		},
		"a chart that it depends on is not there": {
			repository{"web/Chart.yaml": chartYAML + "dependencies:\n- {name: db, version: 1.0.0, repository: 'https://example.com'}\n"},
			[]string{`web/Chart.yaml:1: the charts directory lacks db, on which web depends: run "helm dependency build" and commit`},
		},
		"a template that cannot be parsed": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": "a: b\n{{ if }}\n"},
			[]string{"web/templates/a.yaml:2: Helm: parse error at (web/templates/a.yaml:2): missing value for if"},
		},
		"a template that fails": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": "a: b\n\n{{ fail `set size` }}\n"},
			[]string{"web/templates/a.yaml:3: Helm: execution error at (web/templates/a.yaml:3:3): set size"},
		},
		"a template of a value that is not": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": "a: {{ .Values.a.b.c }}\n"},
			[]string{"web/templates/a.yaml:1: Helm: template: web/templates/a.yaml:1:"},
		},
		"a template that calls itself": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": "{{ define `x` }}{{ include `x` . }}{{ end }}{{ include `x` . }}"},
			[]string{"web/templates/a.yaml:1: Helm: template: web/templates/a.yaml:1:"},
		},
		"a template that gives no YAML": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n{{ if true }}\n    name: a\n  x: y\n{{ end }}\n"},
			[]string{`web/templates/a.yaml: rendered, at line 6 there ("x: …"): not valid YAML`},
		},
		"a template that gives an object twice": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": configMap("{{ .Release.Name }}") + "data: {}\n"},
			[]string{`web/templates/a.yaml: rendered, at line 7 there ("data: …"): key "data" is already set at line 5`},
		},
		"an object without a name": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": configMap("{{ .Values.name }}")},
			[]string{`web/templates/a.yaml: rendered, at line 1 there ("apiVersion: …"): metadata.name is missing`},
		},
		"values that the schema forbids": {
			repository{"web/Chart.yaml": chartYAML, "web/values.yaml": "replicas: 1\n", "web/values.schema.json": strings.Replace(schema, `"$schema": "https://json-schema.org/draft-07/schema#", `, "", 1), "values.yaml": "a: b\nreplicas: many\n"},
			[]string{"values.yaml:2: the values are not what the schema of chart web asks for: - at '/replicas': got string, want integer"},
		},
		"a secret that the schema forbids is not told": {
			repository{"web/Chart.yaml": chartYAML, "web/values.schema.json": `{"properties": {"token": {"pattern": "^a+$"}}}`, "values.yaml": "token: hunter2\n"},
			[]string{"values.yaml:1: the values are not what the schema of chart web asks for: - at '/token': the value does not match pattern '^a+$'"},
		},
		"a template in a value that is wrong is not told": {
			repository{"web/Chart.yaml": chartYAML, "web/templates/a.yaml": "{{ tpl .Values.x . }}\n", "values.yaml": "x: hunter2{{\n"},
			[]string{`web/templates/a.yaml:1: Helm: `},
		},
		"a schema that is elsewhere": {
			repository{"web/Chart.yaml": chartYAML, "web/values.schema.json": `{"$ref": "https://example.com/s.json"}`, "values.yaml": ""},
			[]string{"values.yaml: the values are not what the schema of chart web asks for: values.schema.json: "},
		},
		"a values file that is not there": {
			repository{"web/Chart.yaml": chartYAML, "values.yaml": "\x00gone"}, []string{"values.yaml: no such file: correct helm.values_files"},
		},
		"a values file that is a list": {
			repository{"web/Chart.yaml": chartYAML, "values.yaml": "- a\n"}, []string{"values.yaml:1: not a map of values"},
		},
		"a values file with a tab": {
			repository{"web/Chart.yaml": chartYAML, "values.yaml": "a:\n\tb: c\n"}, []string{"values.yaml:2: a tab is used"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := Chart{Dir: "web"}
			if data, ok := row.files["values.yaml"]; ok {
				c.ValuesFiles = []string{"values.yaml"}
				if data == "\x00gone" {
					delete(row.files, "values.yaml")
				}
			}
			result, err := renderer().Render(t.Context(), helm(t, c), row.files.tree(), row.files.load)
			if err != nil {
				t.Fatal(err)
			}
			got := told(&result)
			if len(got) != len(row.want) {
				t.Fatalf("got %d: %s", len(got), strings.Join(got, "\n"))
			}
			for i := range got {
				if !strings.HasPrefix(got[i], row.want[i]) || strings.Contains(got[i], "hunter2") {
					t.Errorf("got  %s\nwant %s…", got[i], row.want[i])
				}
			}
			if !result.Valid(row.files.tree()) {
				t.Error("the mistake would be looked for again at every commit")
			}
		})
	}
}

func TestValid_OfAChartIsAllOfItsDirectory(t *testing.T) {
	files := chartFiles()
	result, err := renderer().Render(t.Context(), helm(t, Chart{Dir: "charts/web", ValuesFiles: []string{"values/last.yaml"}}), files.tree(), files.load)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"values/production.yaml": true, "charts/other/Chart.yaml": true,
		"values/last.yaml": false, "charts/web/templates/new.yaml": false, "charts/web/values.yaml": false,
	} {
		changed := chartFiles()
		changed[name] = "a: b\n"
		if got := result.Valid(changed.tree()); got != want {
			t.Errorf("%s changed: valid is %v", name, got)
		}
	}
}

// timing tells when a timer is made.
type timing struct {
	*clocktesting.FakeClock
	made chan struct{}
}

func (c *timing) NewTimer(d time.Duration) clock.Timer {
	defer func() { c.made <- struct{}{} }()
	return c.FakeClock.NewTimer(d)
}

func TestRender_GivesUpInTime(t *testing.T) {
	fake := &timing{FakeClock: clocktesting.NewFakeClock(time.Now()), made: make(chan struct{}, 10)}
	r := renderer(func(c *Config) { c.Clock, c.Parallel = fake, 1 })
	files := repository{"Chart.yaml": chartYAML, "templates/a.yaml": configMap("a")}
	entry := helm(t, Chart{Dir: ".", Release: "x"})
	blocked, release := make(chan struct{}), make(chan struct{})
	type outcome struct {
		result Result
		err    error
	}
	late := make(chan outcome, 1)
	go func() {
		result, err := r.Render(t.Context(), entry, files.tree(), func(ctx context.Context, paths []string, maxSize int64, yield func(string, []byte, int64)) error {
			close(blocked)
			<-release
			return files.load(ctx, paths, maxSize, yield)
		})
		late <- outcome{result, err}
	}()
	<-blocked
	<-fake.made // it waits for its turn
	<-fake.made // and for the rendering
	fake.Step(time.Minute)
	first := <-late
	if got := told(&first.result); first.err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "Chart.yaml: rendering takes longer than the limit of 1m0s") || first.result.Valid(files.tree()) {
		t.Errorf("got %q, %v", got, first.err)
	}
	// The one that goes on leaves no room, until it has ended.
	busy := make(chan error, 1)
	go func() {
		_, err := r.Render(t.Context(), entry, files.tree(), files.load)
		busy <- err
	}()
	<-fake.made
	fake.Step(time.Minute)
	if err := <-busy; !errors.Is(err, ErrBusy) {
		t.Errorf("it rendered more at once than it may: %v", err)
	}
	close(release)
	result, err := r.Render(t.Context(), entry, files.tree(), files.load)
	if err != nil || len(result.File.Objects) != 1 {
		t.Errorf("got %v, %v", result.File, err)
	}
}

func TestEntries_SayWhatIsWrong(t *testing.T) {
	for _, row := range []struct {
		make func() error
		want string
	}{
		{func() error { _, err := Kustomize(""); return err }, `kustomize.path "" is empty: write a path from the repository's root`},
		{func() error { _, err := Kustomize("../x"); return err }, `kustomize.path "../x" leads out of the repository`},
		{func() error { _, err := Kustomize("a/kustomization.yaml"); return err }, `kustomize.path "a/kustomization.yaml" is a file: name its directory`},
		{func() error { _, err := Helm(Chart{Dir: "a/../.."}); return err }, `helm.chart "a/../.." leads out`},
		{func() error { _, err := Helm(Chart{Dir: "a/Chart.yaml"}); return err }, `helm.chart "a/Chart.yaml" is a file`},
		{func() error { _, err := Helm(Chart{Dir: "a", ValuesFiles: []string{"/"}}); return err }, `helm.values_files: "/" is a directory`},
		{func() error { _, err := Helm(Chart{Dir: "."}); return err }, `helm.release_name "." is no name of a release`},
		{func() error { _, err := Helm(Chart{Dir: "My_Chart"}); return err }, `helm.release_name "My_Chart" is no name`},
		{func() error { _, err := Helm(Chart{Dir: "a", Namespace: "N"}); return err }, `helm.namespace "N" is no namespace's name`},
	} {
		if err := row.make(); err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("got  %v\nwant %s…", err, row.want)
		}
	}
}

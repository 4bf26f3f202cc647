package render

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kas-agentk/kas/manifests"
)

// repository is files by path.
type repository map[string]string

func (r repository) tree() *Tree {
	ids := map[string]string{}
	for name, data := range r {
		sum := sha256.Sum256([]byte(data))
		ids[name] = hex.EncodeToString(sum[:])
	}
	return NewTree(ids)
}

func (r repository) load(_ context.Context, paths []string, maxSize int64, yield func(string, []byte, int64)) error {
	for _, name := range paths {
		data := []byte(r[name])
		if int64(len(data)) > maxSize {
			data = nil
		}
		yield(name, data, int64(len(r[name])))
	}
	return nil
}

func renderer(change ...func(*Config)) *Renderer {
	config := Config{Limits: manifests.DefaultLimits(), Timeout: time.Minute, Parallel: 2}
	if os.Getenv(apartEnv) != "" {
		config.Command, config.Memory = apart, 4*memory
	}
	for _, c := range change {
		c(&config)
	}
	return New(config)
}

func kustomize(t *testing.T, dir string) Entry {
	t.Helper()
	e, err := Kustomize(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// told lists what came out: objects with their places, or mistakes.
func told(result *Result) []string {
	var lines []string
	for i := range result.File.Objects {
		o := &result.File.Objects[i]
		lines = append(lines, fmt.Sprintf("%s %s %s/%s", o.Position, o.ID.GroupKind.Kind, o.ID.Namespace, o.ID.Name))
	}
	for i := range result.File.Errors {
		lines = append(lines, result.File.Errors[i].Error())
	}
	slices.Sort(lines)
	return lines
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  key: value\n"
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: web}
`

func overlay() repository {
	return repository{
		"base/kustomization.yaml":     "resources: [deployment.yaml, config.yaml]\n",
		"base/deployment.yaml":        "# the web\n" + deployment,
		"base/config.yaml":            configMap("a") + "---\n" + configMap("b"),
		"overlay/kustomization.yaml":  "resources: [../base, extra.yaml]\nnamePrefix: prod-\nnamespace: prod\npatches:\n- path: patch.yaml\nconfigMapGenerator:\n- name: settings\n  files: [app.properties]\n",
		"overlay/extra.yaml":          configMap("extra"),
		"overlay/patch.yaml":          "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: 3\n",
		"overlay/app.properties":      "a=1\n",
		"elsewhere/kustomization.yml": "resources: [nothing.yaml]\n",
	}
}

func TestRender_KustomizeTellsWhereObjectsComeFrom(t *testing.T) {
	files := overlay()
	result, err := renderer().Render(t.Context(), kustomize(t, "/overlay/"), files.tree(), files.load)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"base/config.yaml:1 ConfigMap prod/prod-a",
		"base/config.yaml:8 ConfigMap prod/prod-b",
		"base/deployment.yaml:2 Deployment prod/prod-web",
		"overlay/extra.yaml:1 ConfigMap prod/prod-extra",
		"overlay/kustomization.yaml:7 ConfigMap prod/prod-settings-hd7hk5686b",
	}
	if diff := cmp.Diff(want, told(&result)); diff != "" {
		t.Error(diff)
	}
	for _, o := range result.File.Objects {
		if strings.Contains(string(o.JSON), "annotations") {
			t.Errorf("something was left in %s", o.JSON)
		}
		if o.ID.GroupKind.Kind == "Deployment" && !strings.Contains(string(o.JSON), `"replicas":3`) {
			t.Errorf("the patch is not in %s", o.JSON)
		}
	}
	if result.File.Path != "overlay/kustomization.yaml" || result.File.Size == 0 {
		t.Errorf("got %s with %d bytes", result.File.Path, result.File.Size)
	}
}

func TestValid_IsWhatRenderingAgainWouldSay(t *testing.T) {
	files := overlay()
	result, err := renderer().Render(t.Context(), kustomize(t, "overlay"), files.tree(), files.load)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		change func(repository)
		want   bool
	}{
		"nothing":                    {func(repository) {}, true},
		"a file of nobody's":         {func(r repository) { r["README.md"] = "x" }, true},
		"another kustomization":      {func(r repository) { r["elsewhere/kustomization.yml"] = "x" }, true},
		"a base's file":              {func(r repository) { r["base/config.yaml"] = configMap("c") }, false},
		"a patch":                    {func(r repository) { r["overlay/patch.yaml"] = "x" }, false},
		"a generator's file":         {func(r repository) { r["overlay/app.properties"] = "x" }, false},
		"a file that goes":           {func(r repository) { delete(r, "overlay/extra.yaml") }, false},
		"a second kustomization":     {func(r repository) { r["base/kustomization.yml"] = "x" }, false},
		"a file that is a directory": {func(r repository) { delete(r, "overlay/extra.yaml"); r["overlay/extra.yaml/a"] = "x" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			changed := overlay()
			row.change(changed)
			if got := result.Valid(changed.tree()); got != row.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestRender_KustomizeMistakes(t *testing.T) {
	for name, row := range map[string]struct {
		files repository
		want  []string // beginnings
	}{
		"no kustomization": {repository{"a/x.yaml": ""}, []string{"a/kustomization.yaml: no such file: correct the kustomize entry"}},
		"a remote resource": {
			repository{"a/kustomization.yaml": "resources:\n- b.yaml\n- https://example.com/x.yaml\n", "a/b.yaml": configMap("b")},
			[]string{`a/kustomization.yaml:3: "https://example.com/x.yaml" is remote, and only files of the repository are rendered`},
		},
		"a repository to clone": {
			repository{"a/kustomization.yaml": "Resources:\n- github.com/org/repo?ref=v1\n- git@example.com:org/repo.git\n- ssh://host/x\n"},
			[]string{`a/kustomization.yaml:2: "github.com/org/repo?ref=v1" is remote`, `a/kustomization.yaml:3: "git@`, `a/kustomization.yaml:4: "ssh://`},
		},
		"a remote component, patch, list, and generated file": {
			repository{"a/kustomization.yaml": "components: [https://x/a]\npatches:\n- path: HTTPS://x/b\n\ncrds:\n- http://x/c\n\nconfigMapGenerator:\n- name: nn\n  files:\n  - key=https://x/d\n  envs:\n  - https://x/e\n"},
			[]string{`a/kustomization.yaml:11: "`, `a/kustomization.yaml:13: "`, `a/kustomization.yaml:1: "`, `a/kustomization.yaml:3: "HTTPS://x/b" is remote`, `a/kustomization.yaml:6: "`},
		},
		"a remote path in a base": {
			repository{"a/kustomization.yaml": "resources: [../b]\n", "b/kustomization.yaml": "\nresources: [https://x]\n"},
			[]string{`b/kustomization.yaml:2: "https://x" is remote`},
		},
		"a plugin with a remote path": {
			repository{
				"a/kustomization.yaml": "transformers:\n- t.yaml\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: x}\n  Path: https://x/inline\n",
				"a/t.yaml":             "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: https://x/file\n",
			},
			[]string{`a/kustomization.yaml:3: "https://x/inline" is remote`, `a/t.yaml:1: "https://x/file" is remote`},
		},
		"a plugin that runs something": {
			repository{"a/kustomization.yaml": "generators:\n- g.yaml\n", "a/g.yaml": "apiVersion: example.com/v1\nkind: Exec\nmetadata:\n  name: x\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: /bin/true}\n"},
			[]string{"a/kustomization.yaml:1: Kustomize: "},
		},
		"plugins of a directory": {
			repository{"a/kustomization.yaml": "generators:\n- ../g\n", "g/kustomization.yaml": "resources: []\n"},
			[]string{`a/kustomization.yaml:2: "../g" is a directory`},
		},
		"Helm in Kustomize": {
			repository{"a/kustomization.yaml": "namePrefix: x\nhelmCharts:\n- name: x\n"},
			[]string{"a/kustomization.yaml:2: helmCharts is not supported: charts are not rendered by Kustomize here: add a helm entry"},
		},
		"another schema": {
			repository{"a/kustomization.yaml": "openapi: {path: x.json}\n"},
			[]string{"a/kustomization.yaml:1: openapi is not supported"},
		},
		"a file that is not there": {
			repository{"a/kustomization.yaml": "resources:\n- b.yaml\n"},
			[]string{`a/kustomization.yaml:2: "b.yaml" does not exist in the repository: correct the path`},
		},
		"a way out of the repository": {
			repository{"a/kustomization.yaml": "resources: [../../a/b.yaml, /etc/passwd, ../../../../../etc]\n", "a/b.yaml": configMap("b")},
			[]string{`a/kustomization.yaml:1: "../../../../../etc" does not exist`, `a/kustomization.yaml:1: "../../a/b.yaml" does not exist`, `a/kustomization.yaml:1: "/etc/passwd" does not exist`},
		},
		"a directory without kustomization": {
			repository{"a/kustomization.yaml": "resources: [b]\n", "a/b/c.yaml": configMap("b")},
			[]string{`a/kustomization.yaml:1: directory "b" has no kustomization.yaml`},
		},
		"a key that does not exist": {
			repository{"a/kustomization.yaml": "resources: [b.yaml]\nnameprfix: x\n", "a/b.yaml": configMap("b")},
			[]string{`a/kustomization.yaml:2: not a kustomization: invalid Kustomization: json: unknown field "nameprfix"`},
		},
		"a kustomization that is no YAML": {
			repository{"a/kustomization.yaml": "resources: [\n"}, []string{"a/kustomization.yaml:1: not valid YAML"},
		},
		"a resource that is no YAML": {
			repository{"a/kustomization.yaml": "resources: [../b]\n", "b/kustomization.yaml": "resources: [c.yaml]\n", "b/c.yaml": "a:\n\tb: c\n"},
			[]string{"b/c.yaml:2: a tab is used for indentation"},
		},
		"a key twice": {
			repository{"a/kustomization.yaml": "resources: [b.yaml]\n", "a/b.yaml": configMap("b") + "data: {}\n"},
			[]string{`a/b.yaml:7: key "data" is already set at line 5`},
		},
		"an object twice": {
			repository{"a/kustomization.yaml": "resources: [b.yaml, c.yaml]\n", "a/b.yaml": configMap("b"), "a/c.yaml": configMap("b")},
			[]string{"a/kustomization.yaml:1: Kustomize: accumulating resources: "},
		},
		"a patch for nobody": {
			repository{"a/kustomization.yaml": "resources: [b.yaml]\npatches:\n- path: p.yaml\n", "a/b.yaml": configMap("b"), "a/p.yaml": configMap("c")},
			[]string{"a/kustomization.yaml:1: Kustomize: no resource matches strategic merge patch"},
		},
		"a patch that is wrong is not told": {
			repository{"a/kustomization.yaml": "resources: [b.yaml]\npatches:\n- patch: |-\n    data: {password: hunter2}\n", "a/b.yaml": configMap("b")},
			[]string{"a/kustomization.yaml:1: Kustomize: "},
		},
		"a base that is its own": {
			repository{"a/kustomization.yaml": "resources: [../a]\n"}, []string{"a/kustomization.yaml:1: Kustomize: "},
		},
		"an object that Kubernetes would not have": {
			repository{"a/kustomization.yaml": "resources: [b.yaml]\nnamespace: Big\n", "a/b.yaml": "\n\n" + configMap("b")},
			[]string{`a/b.yaml:3: metadata.namespace "Big" is not valid`},
		},
		"aliases that explode": {
			repository{"a/kustomization.yaml": "resources: [b.yaml]\n", "a/b.yaml": configMap("b") + bomb()},
			[]string{"a/b.yaml:"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := renderer().Render(t.Context(), kustomize(t, "a"), row.files.tree(), row.files.load)
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
			if len(result.File.Objects) > 0 {
				t.Error("objects of a rendering that failed")
			}
			if !result.Valid(row.files.tree()) {
				t.Error("the mistake would be looked for again at every commit")
			}
		})
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 9; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

func TestRender_Limits(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a file too large":  {func(c *Config) { c.Limits.MaxFileSize = 100 }, "overlay/kustomization.yaml: the file has 1"},
		"too many files":    {func(c *Config) { c.Limits.MaxFiles = 3 }, "base/kustomization.yaml: rendering reads more files than the limit of 3"},
		"too many bytes":    {func(c *Config) { c.Limits.MaxTotalSize = 250 }, "base/kustomization.yaml: the files that rendering reads have more bytes together than the limit of 250"},
		"too many objects":  {func(c *Config) { c.Limits.MaxObjects = 2 }, "overlay/kustomization.yaml:1: what is rendered has more objects than the limit of 2"},
		"an object too big": {func(c *Config) { c.Limits.MaxObjectSize = 150 }, "base/deployment.yaml:2: the object has "},
		"nested too deeply": {func(c *Config) { c.Limits.MaxDepth = 3 }, "overlay/kustomization.yaml:5: nested deeper"},
	} {
		t.Run(name, func(t *testing.T) {
			files := overlay()
			result, err := renderer(row.change).Render(t.Context(), kustomize(t, "overlay"), files.tree(), files.load)
			if err != nil {
				t.Fatal(err)
			}
			if got := told(&result); len(got) != 1 || !strings.HasPrefix(got[0], row.want) || len(result.File.Objects) > 0 {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestRender_FilesThatCannotBeLoadedAreNoMistake(t *testing.T) {
	files := overlay()
	broken := errors.New("Gitaly is away")
	calls := 0
	_, err := renderer().Render(t.Context(), kustomize(t, "overlay"), files.tree(), func(ctx context.Context, paths []string, maxSize int64, yield func(string, []byte, int64)) error {
		if calls++; calls == 3 {
			return broken
		}
		return files.load(ctx, paths, maxSize, yield)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestRender_LoadsInFewCalls(t *testing.T) {
	files := repository{}
	var names []string
	for i := range 500 {
		name := fmt.Sprintf("cm-%d.yaml", i)
		files["a/"+name] = configMap(fmt.Sprint("cm-", i))
		names = append(names, name)
	}
	files["a/kustomization.yaml"] = "resources: [" + strings.Join(names, ", ") + "]\n"
	calls := 0
	result, err := renderer().Render(t.Context(), kustomize(t, "a"), files.tree(), func(ctx context.Context, paths []string, maxSize int64, yield func(string, []byte, int64)) error {
		calls++
		return files.load(ctx, paths, maxSize, yield)
	})
	if err != nil || len(result.File.Objects) != 500 || calls != 2 {
		t.Errorf("got %d objects, %d calls, %v %v", len(result.File.Objects), calls, result.File.Errors, err)
	}
}

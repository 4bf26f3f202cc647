package render

import (
	"bytes"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/kas-agentk/kas/manifests"
)

var kustomizationFiles = konfig.RecognizedKustomizationFileNames()

func isKustomization(name string) bool {
	return slices.Contains(kustomizationFiles, path.Base(name))
}

// guard checks a kustomization before Kustomize acts on it: it must ask for nothing but
// files of the repository, for Kustomize itself would fetch what it does not find.
type guard struct {
	bench *bench
	file  string
	dir   string
	k     types.Kustomization
	doc   yaml.Node
	// fetches are files to load in one go; checked those of them that hold objects.
	fetches, checked []string
}

// kustomization checks the file and loads what it names. An error ends the rendering; why
// is among the bench's mistakes.
func (b *bench) kustomization(file string, data []byte) (*guard, error) {
	if mistakes := manifests.CheckSyntax(file, data, b.limits); len(mistakes) > 0 {
		b.add(mistakes...)
		return nil, errStopped
	}
	g := &guard{bench: b, file: file, dir: path.Dir(file)}
	if err := yaml.Unmarshal(data, &g.doc); err != nil {
		b.mistake(file, 0, "not valid YAML: %v", err)
		return nil, errStopped
	}
	if err := g.k.Unmarshal(data); err != nil {
		b.mistake(file, g.lineOf(unknownField(err)), "not a kustomization: %v", err)
		return nil, errStopped
	}
	g.check()
	b.fetch(g.fetches)
	for _, name := range g.checked {
		if b.failed == nil && b.data[name] != nil {
			b.add(manifests.CheckSyntax(name, b.data[name], b.limits)...)
		}
	}
	if b.stopped() {
		return nil, errStopped
	}
	b.guards[file] = g
	return g, nil
}

var quotedField = regexp.MustCompile(`unknown field "([^"]+)"`)

func unknownField(err error) string {
	if m := quotedField.FindStringSubmatch(err.Error()); m != nil {
		return m[1]
	}
	return ""
}

// lineOf returns the line of the first key or value that reads text; 1 where there is none.
func (g *guard) lineOf(text string) int {
	var find func(n *yaml.Node) int
	find = func(n *yaml.Node) int {
		if n.Kind == yaml.ScalarNode && n.Value == text {
			return n.Line
		}
		for _, child := range n.Content {
			if line := find(child); line > 0 {
				return line
			}
		}
		return 0
	}
	return max(find(&g.doc), 1)
}

// lineOfField returns the line of a field of the kustomization, which may be written in
// any case; 1 where there is none.
func (g *guard) lineOfField(field string) int {
	if len(g.doc.Content) == 1 {
		pairs := g.doc.Content[0].Content
		for i := 0; i+1 < len(pairs); i += 2 {
			if strings.EqualFold(pairs[i].Value, field) {
				return pairs[i].Line
			}
		}
	}
	return 1
}

// lineOfGenerator returns the line of the generator that made an object of the name.
func (g *guard) lineOfGenerator(name string) int {
	line, longest := 1, 0
	try := func(n string) {
		if len(n) > longest && strings.Contains(name, n) {
			line, longest = g.lineOf(n), len(n)
		}
	}
	for i := range g.k.ConfigMapGenerator {
		try(g.k.ConfigMapGenerator[i].Name)
	}
	for i := range g.k.SecretGenerator {
		try(g.k.SecretGenerator[i].Name)
	}
	return line
}

func (g *guard) check() {
	k := &g.k
	if len(k.OpenAPI) > 0 {
		g.refuse("openapi", "it changes how all of kas reads objects: leave it out, and write patches as JSON 6902 where lists must be merged")
	}
	if len(k.HelmCharts) > 0 || k.HelmGlobals != nil || len(k.HelmChartInflationGenerator) > 0 {
		field := "helmCharts"
		if len(k.HelmCharts) == 0 {
			field = "helmGlobals"
		}
		g.refuse(field, "charts are not rendered by Kustomize here: add a helm entry to paths in the agent's configuration")
	}
	for _, entry := range slices.Concat(k.Resources, k.Bases) { //nolint:staticcheck // old repositories have them
		g.directoryOrFile(entry)
	}
	for _, entry := range k.Components {
		g.directoryOrFile(entry)
	}
	for _, entry := range slices.Concat(k.Crds, k.Configurations) {
		g.named(entry)
	}
	for _, patch := range slices.Concat(k.Patches, k.PatchesJson6902) { //nolint:staticcheck // old repositories have them
		g.named(patch.Path)
	}
	for _, replacement := range k.Replacements {
		g.named(replacement.Path)
	}
	for _, patch := range k.PatchesStrategicMerge { //nolint:staticcheck // old repositories have them
		if !strings.Contains(string(patch), "\n") {
			g.local(string(patch)) // a path, or a patch of one line
		}
	}
	for i := range k.ConfigMapGenerator {
		g.sources(&k.ConfigMapGenerator[i].KvPairSources)
	}
	for i := range k.SecretGenerator {
		g.sources(&k.SecretGenerator[i].KvPairSources)
	}
	for _, plugin := range slices.Concat(k.Generators, k.Transformers, k.Validators) {
		g.plugin(plugin)
	}
}

func (g *guard) refuse(field, why string) {
	g.bench.mistake(g.file, g.lineOfField(field), "%s is not supported: %s", field, why)
}

// local tells whether a path is none that Kustomize would take for remote.
func (g *guard) local(name string) bool {
	if !isRemote(name) {
		return true
	}
	g.bench.mistake(g.file, g.lineOf(name), "%q is remote, and only files of the repository are rendered: commit a copy of it, and name that", name)
	return false
}

// exists returns where a path leads, if it is that of a file or directory.
func (g *guard) exists(name string) (target string, isFile, isDir bool) {
	target = join(g.dir, name)
	if target != ".." && !strings.HasPrefix(target, "../") {
		isFile, isDir = g.bench.look(target)
	}
	if !isFile && !isDir {
		g.bench.mistake(g.file, g.lineOf(name), "%q does not exist in the repository: correct the path, or commit it", name)
	}
	return target, isFile, isDir
}

// directoryOrFile checks a file with objects or a directory with a kustomization.
func (g *guard) directoryOrFile(name string) {
	if !g.local(name) {
		return
	}
	target, isFile, isDir := g.exists(name)
	switch {
	case isFile:
		g.fetches = append(g.fetches, target)
		g.checked = append(g.checked, target)
	case isDir:
		found := false
		for _, file := range kustomizationFiles {
			file = path.Join(target, file)
			isFile, _ := g.bench.look(file)
			found = found || isFile
			g.fetches = append(g.fetches, file)
		}
		if !found {
			g.bench.mistake(g.file, g.lineOf(name), "directory %q has no kustomization.yaml: name its files, or add one", name)
		}
	}
}

// named checks a path of a file. Empty is none.
func (g *guard) named(name string) {
	if name == "" || !g.local(name) {
		return
	}
	if target, isFile, _ := g.exists(name); isFile {
		g.fetches = append(g.fetches, target)
	}
}

// sources checks what a generator reads: paths, that may follow "key=".
func (g *guard) sources(s *types.KvPairSources) {
	for _, source := range slices.Concat(s.FileSources, s.EnvSources, []string{s.EnvSource}) {
		if source == "" || !g.local(source) {
			continue
		}
		name := source
		if _, after, ok := strings.Cut(source, "="); ok {
			if name = after; !g.local(name) {
				continue
			}
		}
		if target := join(g.dir, name); g.bench.tree.isFile(target) {
			g.fetches = append(g.fetches, target)
		} else if target = join(g.dir, source); !g.bench.tree.isFile(target) {
			g.bench.mistake(g.file, g.lineOf(source), "%q does not exist in the repository: correct the path, or commit it", name)
		}
	}
}

// plugin checks the configuration of a built-in generator, transformer or validator, as
// text or in a file. What a directory would make of it cannot be checked.
func (g *guard) plugin(config string) {
	text, at, line := []byte(config), g.file, g.lineOf(config)
	if !strings.Contains(config, "\n") {
		if !g.local(config) {
			return
		}
		target, isFile, isDir := g.exists(config)
		if isDir {
			g.bench.mistake(g.file, line, "%q is a directory: name the file that configures the plugin", config)
		}
		if !isFile {
			return
		}
		var err error
		if text, err = g.bench.read(target); err != nil {
			return
		}
		at, line = target, 1
	}
	if mistakes := manifests.CheckSyntax(at, text, g.bench.limits); len(mistakes) > 0 {
		for _, m := range mistakes {
			g.bench.mistake(at, max(line, m.Line), "%s", m.Message)
		}
		return
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc any
		if decoder.Decode(&doc) != nil {
			return
		}
		if name := remotePath(doc, false); name != "" {
			g.bench.mistake(at, line, "%q is remote, and only files of the repository are rendered: commit a copy of it, and name that", name)
		}
	}
}

// pathFields of plugins' configurations, in lower case.
var pathFields = []string{"path", "paths", "files", "env", "envs", "targetfilepath", "argsfromfile", "valuesfile", "resources", "crds"}

// remotePath returns a remote path in a plugin's configuration; empty where there is none.
func remotePath(v any, isPath bool) string {
	switch v := v.(type) {
	case string:
		_, after, _ := strings.Cut(v, "=")
		if isPath && (isRemote(v) || isRemote(after)) && !strings.Contains(v, "\n") {
			return v
		}
	case []any:
		for _, item := range v {
			if found := remotePath(item, isPath); found != "" {
				return found
			}
		}
	case map[string]any:
		for key, value := range v {
			if found := remotePath(value, slices.Contains(pathFields, strings.ToLower(key))); found != "" {
				return found
			}
		}
	}
	return ""
}

var userAtHost = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@`)

// isRemote tells whether Kustomize could take a path for an URL or for a repository to
// clone; rather too often than not often enough.
func isRemote(name string) bool {
	lower := strings.TrimPrefix(strings.ToLower(strings.TrimSpace(name)), "git::")
	if u, err := url.Parse(name); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		return true
	}
	return strings.Contains(lower, "://") || userAtHost.MatchString(lower) ||
		strings.HasPrefix(lower, "github.com/") || strings.HasPrefix(lower, "github.com:")
}

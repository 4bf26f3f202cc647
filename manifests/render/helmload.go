package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/ignore"

	"github.com/kas-agentk/kas/manifests"
)

// loadChart reads the chart with all that is in its directory; nil with mistakes.
func (b *bench) loadChart(e Entry) *chart.Chart {
	file := path.Join(e.dir, chartFile)
	b.seen[e.dir+listing] = b.tree.mark(e.dir + listing)
	if !b.tree.isFile(file) {
		b.mistake(file, 0, "no such file: correct the helm entry in paths of the agent's configuration, or add the chart")
		return nil
	}
	names := b.chartFiles(e)
	b.fetch(names)
	var files []*loader.BufferedFile
	for _, name := range names {
		data, err := b.read(name)
		if err != nil {
			return nil
		}
		relative := name
		if e.dir != "." {
			relative = strings.TrimPrefix(name, e.dir+"/")
		}
		files = append(files, &loader.BufferedFile{Name: relative, Data: bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))})
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		b.chartMistake(e, err)
		return nil
	}
	if err := checkChart(c, capabilities()); err != nil {
		b.mistake(file, 1, "%v", err)
		return nil
	}
	return c
}

// chartMistake words why a chart cannot be loaded.
func (b *bench) chartMistake(e Entry, err error) {
	for _, name := range []string{chartFile, "values.yaml"} {
		if file := path.Join(e.dir, name); strings.Contains(err.Error(), name) && b.data[file] != nil {
			if mistakes := manifests.CheckSyntax(file, b.data[file], b.limits); len(mistakes) > 0 {
				b.add(mistakes...)
				return
			}
			b.mistake(file, 1, "%s", shorten(err.Error()))
			return
		}
	}
	b.mistake(path.Join(e.dir, chartFile), 1, "the chart cannot be loaded: %s", shorten(err.Error()))
}

// chartFiles lists the files of the chart's directory but those that .helmignore names.
func (b *bench) chartFiles(e Entry) []string {
	rules := ignore.Empty()
	if name := path.Join(e.dir, ignore.HelmIgnore); b.tree.isFile(name) {
		data, err := b.read(name)
		if err != nil {
			return nil
		}
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			b.mistake(name, 0, "%s", err)
			return nil
		}
	}
	rules.AddDefaults()
	var names []string
	ignored := map[string]bool{".": false}
	for _, name := range b.tree.below(e.dir, b.limits.MaxFiles+1) {
		relative := name
		if e.dir != "." {
			relative = strings.TrimPrefix(name, e.dir+"/")
		}
		if !rules.Ignore(relative, entryInfo{name: path.Base(name)}) && !ignoredDir(rules, path.Dir(relative), ignored) {
			names = append(names, name)
		}
	}
	return names
}

// ignoredDir tells whether a directory or one around it is ignored.
func ignoredDir(rules *ignore.Rules, dir string, known map[string]bool) bool {
	is, ok := known[dir]
	if !ok {
		is = ignoredDir(rules, path.Dir(dir), known) || rules.Ignore(dir, entryInfo{name: path.Base(dir), dir: true})
		known[dir] = is
	}
	return is
}

// entryInfo is all that the rules of .helmignore look at.
type entryInfo struct {
	name string
	dir  bool
}

func (i entryInfo) Name() string { return i.name }
func (i entryInfo) IsDir() bool  { return i.dir }
func (i entryInfo) Size() int64  { return 0 }
func (i entryInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir
	}
	return 0
}
func (i entryInfo) ModTime() time.Time { return time.Time{} }
func (i entryInfo) Sys() any           { return nil }

// values returns what the templates are given; false with mistakes.
func (b *bench) values(e Entry, c *chart.Chart) (chartutil.Values, bool) {
	given := map[string]any{}
	b.fetch(e.values)
	for _, name := range e.values {
		if isFile, _ := b.look(name); !isFile {
			b.mistake(name, 0, "no such file: correct helm.values_files in the agent's configuration, or add it")
			continue
		}
		data, err := b.read(name)
		if err != nil {
			return nil, false
		}
		more, err := chartutil.ReadValues(data)
		if err != nil {
			b.add(valuesMistake(name, data, err, b.limits)...)
			continue
		}
		given = merge(given, more)
	}
	if b.stopped() {
		return nil, false
	}
	file := path.Join(e.dir, chartFile)
	if err := chartutil.ProcessDependenciesWithMerge(c, given); err != nil {
		b.mistake(file, 1, "Helm: %s", shorten(err.Error()))
		return nil, false
	}
	options := chartutil.ReleaseOptions{Name: e.release, Namespace: e.namespace, Revision: 1, IsInstall: true}
	// The library's own check of the schema would fetch what it refers to.
	values, err := chartutil.ToRenderValuesWithSchemaValidation(c, given, options, capabilities(), true)
	if err != nil {
		b.mistake(file, 1, "Helm: %s", shorten(err.Error()))
		return nil, false
	}
	all, _ := values["Values"].(chartutil.Values)
	b.checkSchema(e, c, all, c.Name())
	return values, !b.stopped()
}

func valuesMistake(name string, data []byte, err error, limits manifests.Limits) []manifests.FileError {
	if mistakes := manifests.CheckSyntax(name, data, limits); len(mistakes) > 0 {
		return mistakes
	}
	return []manifests.FileError{{Path: name, Line: 1, Message: manifests.Clip(fmt.Sprintf("not a map of values: %v", err))}}
}

// merge puts b's values over a's, as Helm does with values files.
func merge(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	for key, value := range b {
		if table, ok := value.(map[string]any); ok {
			if below, ok := out[key].(map[string]any); ok {
				out[key] = merge(below, table)
				continue
			}
		}
		out[key] = value
	}
	return out
}

// noNetwork refuses what a schema refers to outside of itself.
type noNetwork struct{}

func (noNetwork) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is outside of the schema: copy it into the schema", url)
}

const schemaURL = "mem:///values.schema.json"

var schemaHead = regexp.MustCompile(`^jsonschema validation failed with '[^']*'\s*`)

// schemaValue matches where a value is quoted, which may be a secret.
var schemaValue = regexp.MustCompile(`(?m)(at '[^']*': ).* (does not match pattern|is not valid)`)

// checkSchema holds the values against the schemas of the chart and the charts in it.
func (b *bench) checkSchema(e Entry, c *chart.Chart, values map[string]any, name string) {
	if c.Schema != nil {
		if err := validate(c.Schema, values); err != nil {
			message := shorten(schemaValue.ReplaceAllString(schemaHead.ReplaceAllString(err.Error(), ""), "${1}the value $2"))
			file, line := b.culprit(e, message)
			b.mistake(file, line, "the values are not what the schema of chart %s asks for: %s", name, message)
		}
	}
	for _, sub := range c.Dependencies() {
		if below, ok := values[sub.Name()].(map[string]any); ok {
			b.checkSchema(e, sub, below, name+"/"+sub.Name())
		}
	}
}

var schemaPlace = regexp.MustCompile(`at '/([^']*)'`)

// culprit returns the values file, and in it the line, that a schema complains of: the last
// one that sets the value.
func (b *bench) culprit(e Entry, message string) (file string, line int) {
	files := append([]string{path.Join(e.dir, "values.yaml")}, e.values...)
	key := ""
	if m := schemaPlace.FindStringSubmatch(message); m != nil {
		key = path.Base(m[1])
	}
	for i := len(files) - 1; i >= 0 && key != ""; i-- {
		number := 0
		for text := range strings.Lines(string(b.data[files[i]])) {
			number++
			if strings.HasPrefix(strings.TrimLeft(text, " -{"), key+":") {
				return files[i], number
			}
		}
	}
	if last := files[len(files)-1]; b.tree.isFile(last) {
		return last, 0
	}
	return path.Join(e.dir, chartFile), 0
}

func validate(schema []byte, values map[string]any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the schema cannot be used: %v", p)
		}
	}()
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return fmt.Errorf("values.schema.json: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noNetwork{})
	if err := compiler.AddResource(schemaURL, parsed); err != nil {
		return fmt.Errorf("values.schema.json: %w", err)
	}
	compiled, err := compiler.Compile(schemaURL)
	if err != nil {
		return fmt.Errorf("values.schema.json: %w", err)
	}
	// The validator knows plain JSON only.
	data, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("values: %w", err)
	}
	plain, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("values: %w", err)
	}
	if err := compiled.Validate(plain); err != nil {
		return fmt.Errorf("%w", err)
	}
	return nil
}

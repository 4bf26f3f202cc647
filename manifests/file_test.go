package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/inventory"
)

// configMap returns the YAML of a ConfigMap.
func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n"
}

// found writes a result as lines of "line Kind namespace/name".
func found(f FileResult) []string {
	var lines []string
	for _, o := range f.Objects {
		lines = append(lines, fmt.Sprintf("%d %s %s/%s", o.Position.Line, o.ID.GroupKind.Kind, o.ID.Namespace, o.ID.Name))
	}
	return lines
}

func messages(errors []FileError) []string {
	var lines []string
	for i := range errors {
		lines = append(lines, errors[i].Error())
	}
	return lines
}

func TestParseFile_Objects(t *testing.T) {
	tests := map[string]struct {
		path, data string
		want       []string
	}{
		"an empty file holds nothing":              {data: ""},
		"comments alone hold nothing":              {data: "# a\n---\n# b\n--- # c\n\n"},
		"one document":                             {data: configMap("a"), want: []string{"1 ConfigMap /a"}},
		"leading comments do not count as its key": {data: "# a\n\n" + configMap("a"), want: []string{"3 ConfigMap /a"}},
		"several documents": {
			data: "---\n" + configMap("a") + "---\n" + configMap("b") + "--- # c\n# d\n" + configMap("c") + "---\n",
			want: []string{"2 ConfigMap /a", "7 ConfigMap /b", "13 ConfigMap /c"},
		},
		"documents that end with dots and begin with directives": {
			data: "%YAML 1.1\n---\n" + configMap("a") + "...\n# x\n%YAML 1.1\n---\n" + configMap("b"),
			want: []string{"3 ConfigMap /a", "11 ConfigMap /b"},
		},
		"a separator with trailing blanks":   {data: configMap("a") + "---  \t\n" + configMap("b"), want: []string{"1 ConfigMap /a", "6 ConfigMap /b"}},
		"dashes in a text are no separator":  {data: configMap("a") + "data:\n  x: |\n    ---\n    y\n", want: []string{"1 ConfigMap /a"}},
		"a document on the separator's line": {data: `--- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}`, want: []string{"1 ConfigMap /a"}},
		"Windows line ends":                  {data: strings.ReplaceAll(configMap("a")+"---\n"+configMap("b"), "\n", "\r\n"), want: []string{"1 ConfigMap /a", "6 ConfigMap /b"}},
		"empty documents, with Windows line ends": {
			data: "---\r\n---\r\n# a\r\n---\r\n\r\n" + strings.ReplaceAll(configMap("a"), "\n", "\r\n") + "---\r\n...\r\n", want: []string{"6 ConfigMap /a"},
		},
		"a byte order mark and Windows line ends": {
			data: "\xEF\xBB\xBF---\r\n" + strings.ReplaceAll(configMap("a"), "\n", "\r\n"), want: []string{"2 ConfigMap /a"},
		},
		"a byte order mark before JSON": {
			path: "a.json", data: "\xEF\xBB\xBF" + `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, want: []string{"1 ConfigMap /a"},
		},
		"a byte order mark and nothing else": {data: "\xEF\xBB\xBF"},
		"a byte order mark":                  {data: "\xEF\xBB\xBF" + configMap("a"), want: []string{"1 ConfigMap /a"}},
		"a namespace":                        {data: configMap("a") + "  namespace: ns\n", want: []string{"1 ConfigMap ns/a"}},
		"an empty namespace is none":         {data: configMap("a") + "  namespace: \"\"\n", want: []string{"1 ConfigMap /a"}},
		"names that only some kinds may have": {
			data: "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: system:Foo.bar\n",
			want: []string{"1 ClusterRole /system:Foo.bar"},
		},
		"a List": {
			data: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: b}\n",
			want: []string{"4 ConfigMap /a", "7 Secret /b"},
		},
		"a list of one kind, whose items may leave it out": {
			data: "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: b}\n",
			want: []string{"4 ConfigMap /a", "5 ConfigMap /b"},
		},
		"a list in a list": {
			data: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items:\n  - apiVersion: v1\n    kind: ConfigMap\n    metadata: {name: a}\n",
			want: []string{"4 ConfigMap /a"},
		},
		"an empty List":                        {data: "apiVersion: v1\nkind: List\nitems: []\n"},
		"a List without items":                 {data: "apiVersion: v1\nkind: List\n"},
		"a kind that only sounds like a list":  {data: "apiVersion: example.com/v1\nkind: AllowList\nmetadata:\n  name: a\n", want: []string{"1 AllowList /a"}},
		"an object for tools alone is skipped": {data: configMap("a") + "  annotations: {config.kubernetes.io/local-config: \"true\"}\n"},
		"the value of that does not matter":    {data: configMap("a") + "  annotations: {config.kubernetes.io/local-config: \"false\"}\n"},
		"a kustomization for tools alone":      {data: "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nmetadata:\n  annotations: {config.kubernetes.io/local-config: \"true\"}\n"},
		"an anchor and its alias":              {data: configMap("a") + "data: &d {x: y}\nother: *d\n", want: []string{"1 ConfigMap /a"}},
		"JSON": {
			path: "a.json", data: "\n{\n  \"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}}\n",
			want: []string{"3 ConfigMap /a"},
		},
		"JSON values one after the other": {
			path: "a.json", data: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}` + "\n" + `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`,
			want: []string{"1 ConfigMap /a", "2 ConfigMap /b"},
		},
		"a List in JSON, indented with tabs": {
			path: "a.json", data: "{\"apiVersion\": \"v1\", \"kind\": \"List\",\n\t\"items\": [\n\t{\n\t\t\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"a\"}},\n\t{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"b\"}}\n]}",
			want: []string{"4 ConfigMap /a", "5 ConfigMap /b"},
		},
		"JSON in a file that is named YAML": {path: "a.yaml", data: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, want: []string{"1 ConfigMap /a"}},
		"YAML that begins like JSON":        {path: "a.yaml", data: "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n" + configMap("b"), want: []string{"1 ConfigMap /a", "3 ConfigMap /b"}},
		"YAML in a file that is named JSON": {path: "a.json", data: configMap("a"), want: []string{"1 ConfigMap /a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := tt.path
			if path == "" {
				path = "a.yaml"
			}
			got := ParseFile(path, []byte(tt.data), DefaultLimits())
			assert.Empty(t, messages(got.Errors))
			assert.Equal(t, tt.want, found(got))
			assert.EqualValues(t, len(tt.data), got.Size)
		})
	}
}

func TestParseFile_Mistakes(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxFileSize = 20_000
	limits.MaxObjectSize = 1_000
	limits.MaxAliasSize = 2_000
	limits.MaxObjects = 30
	tests := map[string]struct {
		path, data string
		want       []string
		found      []string
	}{
		"a key twice": {
			data: configMap("a") + "data:\n  x: 1\n  y: 2\n  x: 3\n",
			want: []string{`a.yaml:8: key "x" is already set at line 6: remove one of them`},
		},
		"a key twice in the second document": {
			data: configMap("a") + "---\n" + configMap("b") + "kind: Secret\n", found: []string{"1 ConfigMap /a"},
			want: []string{`a.yaml:10: key "kind" is already set at line 7: remove one of them`},
		},
		"a key twice in JSON": {
			path: "a.json", data: "{\n\"kind\": \"ConfigMap\",\n\"kind\": \"Secret\"}",
			want: []string{`a.json:3: key "kind" is already set at line 2: remove one of them`},
		},
		"a tab": {
			data: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n\tname: a\n",
			want: []string{"a.yaml:4: a tab is used for indentation: YAML allows only spaces there"},
		},
		"a bad document between good ones": {
			data:  configMap("a") + "---\nfoo: [1\n---\n" + configMap("b"),
			want:  []string{"a.yaml:6: not valid YAML: did not find expected ',' or ']'"},
			found: []string{"1 ConfigMap /a", "8 ConfigMap /b"},
		},
		"an indentation that fits nothing": {
			data: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n labels: y\n",
			want: []string{"a.yaml:5: not valid YAML: did not find expected key"},
		},
		"an indentation that fits nothing, deep in": {
			data: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n  labels:\n    a: b\n   c: d\n    e: f\n",
			want: []string{"a.yaml:7: not valid YAML: did not find expected key"},
		},
		"a colon too many": {
			data: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a: b\n  foo: bar\n",
			want: []string{"a.yaml:4: not valid YAML: mapping values are not allowed in this context"},
		},
		"a quote that is never closed": {
			data: "apiVersion: v1\nkind: \"ConfigMap\nmetadata:\n  name: a\n",
			want: []string{"a.yaml:2: not valid YAML: found unexpected end of stream"},
		},
		"an unknown anchor": {
			data: configMap("a") + "data: *nope\n",
			want: []string{"a.yaml:5: not valid YAML: unknown anchor 'nope' referenced"},
		},
		"an anchor that contains itself": {
			data: configMap("a") + "data: &d\n  x: *d\n",
			want: []string{`a.yaml:6: anchor "d" contains itself`},
		},
		"a template": {
			data: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Values.name }}\n",
			want: []string{"a.yaml:4: a key must be a string, not a map or a list (a template that was not rendered?)"},
		},
		"a template that is no YAML": {
			data: "apiVersion: v1\n{{- if .Values.on }}\nkind: ConfigMap\n{{- end }}\n",
			want: []string{"a.yaml:2: not valid YAML: could not find expected ':' (a template? it must be rendered before it is committed, or left out by the globs)"},
		},
		"no apiVersion":             {data: "kind: ConfigMap\nmetadata: {name: a}\n", want: []string{"a.yaml:1: apiVersion is missing"}},
		"no kind":                   {data: "apiVersion: v1\nmetadata: {name: a}\n", want: []string{"a.yaml:1: kind is missing"}},
		"no metadata":               {data: "apiVersion: v1\nkind: ConfigMap\n", want: []string{"a.yaml:1: metadata.name is missing"}},
		"no name":                   {data: "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n", want: []string{"a.yaml:1: metadata.name is missing"}},
		"everything missing":        {data: "foo: bar\n", want: []string{"a.yaml:1: apiVersion is missing", "a.yaml:1: kind is missing", "a.yaml:1: metadata.name is missing"}},
		"a name that is a number":   {data: configMap("1"), want: []string{"a.yaml:1: metadata.name must be a string, not the value 1: put it in quotes"}},
		"a name with a slash":       {data: configMap("a/b"), want: []string{`a.yaml:1: metadata.name "a/b" is not valid: it may not contain '/'`}},
		"a namespace in capitals":   {data: configMap("a") + "  namespace: NS\n", want: []string{`a.yaml:1: metadata.namespace "NS" is not valid: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`}},
		"metadata that is a text":   {data: "apiVersion: v1\nkind: ConfigMap\nmetadata: foo\n", want: []string{`a.yaml:1: metadata must be a map, not the text "foo"`}},
		"an apiVersion of numbers":  {data: "apiVersion: 1\nkind: ConfigMap\nmetadata: {name: a}\n", want: []string{"a.yaml:1: apiVersion must be a string, not the value 1"}},
		"an apiVersion of slashes":  {data: "apiVersion: a/b/c\nkind: ConfigMap\nmetadata: {name: a}\n", want: []string{`a.yaml:1: apiVersion "a/b/c" is not a version: write "v1" or "group/version"`}},
		"a label that is a boolean": {data: configMap("a") + "  labels: {on: yes}\n", want: []string{`a.yaml:1: metadata.labels "true" must be a string, not the value true: put it in quotes`}},
		"generateName": {
			data: "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a-}\n",
			want: []string{"a.yaml:1: metadata.generateName would create another object at every sync: set metadata.name instead"},
		},
		"a text":             {data: "hello\n", want: []string{`a.yaml:1: not a Kubernetes object but the text "hello": an object is a map with apiVersion, kind and metadata`}},
		"dashes and a text":  {data: "---#x\n", want: []string{`a.yaml:1: not a Kubernetes object but the text "---#x": an object is a map with apiVersion, kind and metadata`}},
		"a list":             {data: "- a\n", want: []string{"a.yaml:1: not a Kubernetes object but a list: an object is a map with apiVersion, kind and metadata"}},
		"a list with a text": {data: "apiVersion: v1\nkind: List\nitems:\n- foo\n", want: []string{`a.yaml:4: an item of the List is not a Kubernetes object but the text "foo"`}},
		"a kustomization": {
			data: "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n",
			want: []string{"a.yaml:1: a kustomization: to have it rendered, add \"- kustomize: {path: .}\" to paths in the agent's configuration; or leave this file out by the globs"},
		},
		"a kustomization that says so by its name alone": {
			path: "x/kustomization.yaml", data: "resources: [a.yaml]\n",
			want: []string{"x/kustomization.yaml:1: a kustomization: to have it rendered, add \"- kustomize: {path: x}\" to paths in the agent's configuration; or leave this file out by the globs"},
		},
		"a Helm chart": {
			path: "charts/web/Chart.yaml", data: "apiVersion: v2\nname: web\nversion: 1.0.0\n",
			want: []string{"charts/web/Chart.yaml:1: a Helm chart: to have it rendered, add \"- helm: {chart: charts/web}\" to paths in the agent's configuration; or leave this directory out by the globs"},
		},
		"broken JSON":    {path: "a.json", data: "{\n\"a\": 1,\n\"b\" 2}\n", want: []string{`a.json:3: not valid JSON: invalid character '2' after object key`}},
		"JSON cut short": {path: "a.json", data: "{\n\"a\": {\n", want: []string{`a.json:3: not valid JSON: the file ends in the middle of a value`}},
		"UTF-16":         {data: "\xFF\xFEa\x00", want: []string{"a.yaml:1: the file is UTF-16: save it as UTF-8"}},
		"bytes that are no text": {
			data: "a: b\nc: \xC0\n", want: []string{"a.yaml:2: not UTF-8: save the file as UTF-8, or leave it out by the globs"},
		},
		"not a number":        {data: configMap("a") + "spec: .nan\n", want: []string{"a.yaml:5: Kubernetes has no number .nan: put it in quotes if it is a string"}},
		"a file too large":    {data: strings.Repeat("#", 20_001), want: []string{"a.yaml: the file has 20001 bytes, more than the limit of 20000: split it, or leave it out by the globs"}},
		"an object too large": {data: configMap("a") + "data: {x: " + strings.Repeat("x", 1000) + "}\n", want: []string{"a.yaml:1: the object has 1078 bytes as JSON, more than the limit of 1000 that Kubernetes accepts"}},
		"too deep":            {data: configMap("a") + "data: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), want: []string{"a.yaml:5: nested deeper than the limit of 100 levels"}},
		"too deep in JSON":    {path: "a.json", data: strings.Repeat("[", 200) + strings.Repeat("]", 200), want: []string{"a.json:1: nested deeper than the limit of 100 levels"}},
		"an alias bomb": {
			data: "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n",
			want: []string{"a.yaml:1: aliases expand to more than the limit of 2000 bytes: write the values out, or split the document"},
		},
		"more documents than a set may have objects": {
			data:  strings.Repeat("---\n", 50) + strings.Repeat("--- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n", 31),
			want:  []string{"a.yaml:81: the file has more documents than the limit of 30 objects: this one and what follows it is left out"},
			found: repeated(30, func(i int) string { return fmt.Sprintf("%d ConfigMap /a", 51+i) }),
		},
		"more mistakes than are worth telling": {
			data: strings.Repeat("---\nx\n", maxFileErrors+2),
			want: append(repeated(maxFileErrors, func(i int) string {
				return fmt.Sprintf("a.yaml:%d: not a Kubernetes object but the text \"x\": an object is a map with apiVersion, kind and metadata", 1+2*i+1)
			}), "a.yaml: 2 more mistakes in this file"),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := tt.path
			if path == "" {
				path = "a.yaml"
			}
			got := ParseFile(path, []byte(tt.data), limits)
			assert.Equal(t, tt.want, messages(got.Errors))
			assert.Equal(t, tt.found, found(got))
		})
	}
}

func repeated(n int, f func(int) string) []string {
	var list []string
	for i := range n {
		list = append(list, f(i))
	}
	return list
}

// TestParseFile_TypesAsKubectl compares scalars with sigs.k8s.io/yaml, by which
// kubectl reads manifests.
func TestParseFile_TypesAsKubectl(t *testing.T) {
	scalars := []string{
		"yes", "no", "on", "off", "y", "n", "Y", "N", "True", "FALSE", "~", "null", "", "'yes'", `"no"`, `"1e3"`, "'1'",
		"1", "-1", "+1", "0", "-0", "007", "08", "0o17", "0x1F", "0b101", "-0b11", "1_000", "0b-1", "0o", "0x",
		"9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615", "18446744073709551616",
		"1.0", "1.5", "-0.0", ".5", "1.", "1e3", "1E-3", "1e400", "123456789.123456789", "1_0.5", "._5", ".e", "1:30", "12:30:45",
		"2001-01-01", "2001-1-1", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43.10", "1.2.3", "v1", "1Gi", "100m", "=", "<", "a<b>&c",
		"!!str 1", "!!int '1'", "!!float 1", "!!bool 'yes'", "!!binary aGVsbG8=", "!!null ''", "!custom x",
		"|\n  a\n  b\n", ">-\n  a\n  b", "'it''s'", `"\u00e9\n"`, "[1, a, {b: c}]", "{}", "[]",
		"&x {a: 1}\nb: *x", "&x {a: 1}\nb: {<<: *x, c: 2}", "&x {a: 1}\nb: {<<: *x, a: 2}", "&x {a: 1}\nb: {a: 2, <<: *x}",
		"{p: &x {a: 1}, q: &y {a: 2, b: 3}}\nb: {<<: [*x, *y]}", "{1: a, 1.5: b, true: c}", "{yes: a}", "{0x10: a}", "&k a\n*k : b",
	}
	for _, s := range scalars {
		t.Run(s, func(t *testing.T) {
			data := configMap("a") + "value: " + s + "\n"
			want, err := yaml.YAMLToJSON([]byte(data))
			require.NoError(t, err)
			got := ParseFile("a.yaml", []byte(data), DefaultLimits())
			require.Empty(t, messages(got.Errors))
			require.Len(t, got.Objects, 1)
			assert.Equal(t, string(want), string(got.Objects[0].JSON))
		})
	}
}

func TestParseFile_CanonicalAcrossFormats(t *testing.T) {
	fromYAML := ParseFile("a.yaml", []byte("kind: ConfigMap\nmetadata: {name: a}\napiVersion: v1\nspec: {b: 1.0, a: [x, 2], big: 18446744073709551615}\n"), DefaultLimits())
	fromJSON := ParseFile("a.json", []byte(`{ "spec": {"a": ["x", 2], "b": 1.0, "big": 18446744073709551615}, "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"} }`), DefaultLimits())
	require.Len(t, fromYAML.Objects, 1)
	require.Len(t, fromJSON.Objects, 1)
	want := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"spec":{"a":["x",2],"b":1,"big":18446744073709551615}}`)
	assert.True(t, bytes.Equal(want, fromYAML.Objects[0].JSON), "%s", fromYAML.Objects[0].JSON)
	assert.Equal(t, string(fromYAML.Objects[0].JSON), string(fromJSON.Objects[0].JSON))
	assert.Equal(t, fromYAML.Objects[0].Digest, fromJSON.Objects[0].Digest)
}

func TestObject_UnstructuredGivesBackWhatWasRead(t *testing.T) {
	got := ParseFile("a.yaml", []byte(configMap("a")+"  namespace: ns\nspec: {i: 1, f: 1.5, s: \"1\", b: yes}\n"), DefaultLimits())
	require.Len(t, got.Objects, 1)
	u, err := got.Objects[0].Unstructured()
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"i": int64(1), "f": 1.5, "s": "1", "b": true}, u.Object["spec"])
	assert.Equal(t, got.Objects[0].ID, inventory.IDOf(u))
	again, err := json.Marshal(u.Object)
	require.NoError(t, err)
	assert.Equal(t, string(got.Objects[0].JSON), string(again), "canonical JSON is what json.Marshal makes of the content")
}

func TestTooLarge_NamesTheLimit(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxFileSize = 5
	got := TooLarge("a.yaml", 9, limits)
	assert.Equal(t, []string{"a.yaml: the file has 9 bytes, more than the limit of 5: split it, or leave it out by the globs"}, messages(got.Errors))
	assert.Equal(t, got, ParseFile("a.yaml", []byte("123456789"), limits), "read or not, the result is the same")
}

func FuzzParseFile(f *testing.F) {
	for _, seed := range []string{
		configMap("a"), "---\n- a\n...\n%YAML 1.1\n---\n&x {<<: *x}", `{"kind":"List","items":[{"a":1}]}`, "a: &a [*a]\n", "\xEF\xBB\xBF# x",
		"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: X, metadata: {name: a}, v: [1e3, 0o7, yes, 2001-1-1]}\n", "a:\n\tb: c\n", "? [a]\n: b\n",
	} {
		f.Add("a.yaml", []byte(seed))
		f.Add("a.json", []byte(seed))
	}
	limits := DefaultLimits()
	limits.MaxAliasSize = 1 << 16
	f.Fuzz(func(t *testing.T, path string, data []byte) {
		got := ParseFile(path, data, limits)
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
		for _, e := range got.Errors {
			if e.Line < 0 || e.Line > lines+1 || e.Message == "" {
				t.Fatalf("error %q at line %d of %d", e.Message, e.Line, lines)
			}
		}
		for _, o := range got.Objects {
			if o.Position.Line < 1 || o.Position.Line > lines+1 {
				t.Fatalf("object at line %d of %d", o.Position.Line, lines)
			}
			u := &unstructured.Unstructured{}
			if err := u.UnmarshalJSON(o.JSON); err != nil {
				t.Fatalf("not readable by Kubernetes: %v: %s", err, o.JSON)
			}
			if got := inventory.IDOf(u); got != o.ID {
				t.Fatalf("identity %v, want %v", o.ID, got)
			}
		}
	})
}

// FuzzParseFile_AsKubectl checks that one document means what it means to kubectl.
func FuzzParseFile_AsKubectl(f *testing.F) {
	for _, seed := range []string{"a: b", "a: [1, 0x1f, yes]", "1: 2", "&a b: *a", "x: 2001-01-01", "<<: {a: b}\nc: .5", "\"a\": 'b'", "y: |\n  a\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		if strings.ContainsAny(content, "!%\r\u0085\u2028\u2029\uFEFF") || strings.Contains(content, "---") || strings.Contains(content, "...") {
			t.Skip("kubectl and we differ there on purpose, or its own splitting is not in YAMLToJSON")
		}
		data := "apiVersion: v1\nkind: X\nmetadata: {name: a}\n" + content + "\n"
		got := ParseFile("a.yaml", []byte(data), DefaultLimits())
		if len(got.Errors) > 0 || len(got.Objects) != 1 {
			t.Skip("stricter than kubectl")
		}
		want, err := yaml.YAMLToJSON([]byte(data))
		if err != nil {
			t.Fatalf("kubectl refuses it: %v", err)
		}
		if !bytes.Equal(want, got.Objects[0].JSON) {
			t.Fatalf("want %s\n got %s", want, got.Objects[0].JSON)
		}
	})
}

func BenchmarkParseFile_Thousand(b *testing.B) {
	var files [][]byte
	for i := range 1000 {
		files = append(files, []byte(fmt.Sprintf("%s  labels:\n    app: x\ndata:\n  key-%d: value\n  other: |\n    some\n    text\n", configMap(fmt.Sprint("cm-", i)), i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, data := range files {
			if got := ParseFile("a.yaml", data, DefaultLimits()); len(got.Objects) != 1 {
				b.Fatal(got.Errors)
			}
		}
	}
}

func TestParseFile_ANameThatIsNotUTF8IsAMistakeThatCanBeTold(t *testing.T) {
	data := []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
	for name, result := range map[string]FileResult{
		"a file":            ParseFile("caf\xe9.yaml", data, DefaultLimits()),
		"one too large too": TooLarge("caf\xe9.yaml", 1<<40, DefaultLimits()),
	} {
		t.Run(name, func(t *testing.T) {
			if len(result.Objects) != 0 || len(result.Errors) != 1 || result.Path != "caf\uFFFD.yaml" || result.Errors[0].Path != result.Path {
				t.Errorf("got %+v", result)
			}
		})
	}
}

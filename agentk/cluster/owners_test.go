package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/gitops"
)

// entry of managedFields.
func entry(manager string, operation metav1.ManagedFieldsOperationType, fields string) metav1.ManagedFieldsEntry {
	f := &metav1.FieldsV1{}
	f.SetRawBytes([]byte(fields))
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, FieldsType: "FieldsV1", FieldsV1: f}
}

const (
	apply  = metav1.ManagedFieldsOperationApply
	update = metav1.ManagedFieldsOperationUpdate
)

func document(t *testing.T, doc string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(doc))
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal(data, &v))
	return v
}

const workload = `
metadata:
  labels: {ours: "1", theirs: "1"}
  finalizers: [example.com/theirs, example.com/ours]
spec:
  replicas: 2
  selector: {matchLabels: {app: a}}
  template:
    spec:
      containers:
      - {name: a, image: "a:1", args: [x, y], ports: [{containerPort: 80}]}
      - {name: b, image: "b:1"}
`

func workloadOwners(t *testing.T) owners {
	t.Helper()
	o, err := ownersOf([]metav1.ManagedFieldsEntry{
		entry(FieldManager, apply, `{"f:metadata":{"f:labels":{"f:ours":{}}},"f:spec":{"f:template":{"f:spec":{"f:containers":{`+
			`"k:{\"name\":\"a\"}":{".":{},"f:name":{}},"k:{\"name\":\"b\"}":{".":{},"f:name":{},"f:image":{}}}}}}}`),
		entry("creator", update, `{"f:metadata":{"f:labels":{".":{},"f:theirs":{}},"f:finalizers":{".":{},"v:\"example.com/theirs\"":{}}},`+
			`"f:spec":{"f:selector":{},"f:strategy":{}}}`),
		entry("updater", update, `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{"f:image":{},"f:args":{},`+
			`"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{"f:containerPort":{}}}}}}}}}`),
		entry("updater", update, `{"f:metadata":{"f:labels":{".":{}}},"f:spec":{"f:replicas":{},"f:paused":{}}}`),
	})
	require.NoError(t, err)
	return o
}

func TestOwners_ContendersAreWhoOwnsWhatTheManifestSets(t *testing.T) {
	require.Equal(t, []gitops.Contender{
		{Manager: "creator", Fields: []string{`.metadata.finalizers[="example.com/theirs"]`, ".metadata.labels.theirs", ".spec.selector"}},
		{Manager: "updater", Fields: []string{
			".spec.replicas", `.spec.template.spec.containers[name="a"].args`, `.spec.template.spec.containers[name="a"].image`,
			`.spec.template.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"].containerPort`,
		}},
	}, workloadOwners(t).contenders(document(t, workload)))
}

func TestOwners_NobodyContendsForWhatIsShared(t *testing.T) {
	o, err := ownersOf([]metav1.ManagedFieldsEntry{
		entry(FieldManager, apply, `{"f:spec":{"f:replicas":{}}}`),
		entry("other", update, `{"f:spec":{"f:replicas":{}},"f:status":{"f:x":{}}}`),
	})
	require.NoError(t, err)
	require.Empty(t, o.contenders(document(t, workload)))
}

func TestOwners_StripLeavesOutWhatSomebodyElseOwns(t *testing.T) {
	for _, row := range []struct {
		name, pointer string
		// gone are paths through the manifest that are no longer there.
		gone [][]any
	}{
		{"a field", "/spec/replicas", [][]any{{"spec", "replicas"}}},
		{"a field of an item of a list", "/spec/template/spec/containers/0/image", [][]any{{"spec", "template", "spec", "containers", 0, "image"}}},
		{"a field that is ours", "/spec/template/spec/containers/1/image", nil},
		{"all that is below", "/metadata/labels", [][]any{{"metadata", "labels", "theirs"}}},
		{"an item of a set", "/metadata/finalizers/0", [][]any{{"metadata", "finalizers", 1}}},
		{"a part of what has one owner as a whole", "/spec/selector/matchLabels/app", [][]any{{"spec", "selector"}}},
		{"another item", "/metadata/finalizers/1", nil},
		{"what nobody owns", "/spec/unknown", nil},
		{"a name where an index is wanted", "/spec/template/spec/containers/a/image", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			manifest := document(t, workload)
			workloadOwners(t).strip(manifest, []string{row.pointer})
			for _, path := range row.gone {
				require.False(t, has(manifest, path), "%v", path)
			}
			if row.gone == nil {
				require.Equal(t, document(t, workload), manifest)
			}
		})
	}
}

func TestOwners_StripTakesEmptyMapsAlong(t *testing.T) {
	manifest := document(t, `{metadata: {name: a, annotations: {example.com/x~y: "1"}}}`)
	o, err := ownersOf([]metav1.ManagedFieldsEntry{entry("other", update, `{"f:metadata":{"f:annotations":{".":{},"f:example.com/x~y":{}}}}`)})
	require.NoError(t, err)
	o.strip(manifest, []string{"/metadata/annotations/example.com~1x~0y"})
	require.Equal(t, document(t, `{metadata: {name: a}}`), manifest)
}

// has says that there is something at the end of the path.
func has(v any, path []any) bool {
	for _, step := range path {
		switch at := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return false
			}
			if v, ok = m[at]; !ok {
				return false
			}
		case int:
			list, ok := v.([]any)
			if !ok || at >= len(list) {
				return false
			}
			v = list[at]
		}
	}
	return true
}

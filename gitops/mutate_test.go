package gitops_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

var errColour = errors.New("denied: hunter22 is no colour")

// taking is a ConfigMap whose value comes from elsewhere.
func taking(name, source, path, token string) string {
	annotation := fmt.Sprintf("- sourceRef: {%s}\n  sourcePath: %s\n  targetPath: $.data.k\n", source, path)
	if token != "" {
		annotation += "  token: " + token + "\n"
	}
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, annotations: {config.kubernetes.io/apply-time-mutation: %q}}, data: {k: "at ${x}!"}}`,
		name, annotation)
}

func dataOf(t *testing.T, w *world, name string) any {
	t.Helper()
	value, _, err := unstructured.NestedFieldNoCopy(w.objects[cmID(name)].Object.Unstructured().Object, "data", "k")
	require.NoError(t, err)
	return value
}

func TestRun_ValueOfAnotherObjectIsPutInPlace(t *testing.T) {
	w := newWorld()
	f := w.process()
	docs := []string{taking("target", "kind: ConfigMap, name: source", "$.data.k", "${x}"), cm("source", "here")}
	result, o := run(t, f, project(), set(t, docs...))
	require.Zero(t, result.Failed, "%+v", o.newest)
	require.Equal(t, "at here!", dataOf(t, w, "target"))
	require.Less(t, indexOf(f.calls, "apply source"), indexOf(f.calls, "apply target"), "the source comes first")

	f.calls = nil
	_, o = run(t, f, project(), set(t, docs...))
	require.Equal(t, gitops.ActionUnchanged, o.get("target").Action)
	require.Equal(t, []string{"resolve"}, f.calls, "unchanged costs nothing here as well")

	docs[1] = cm("source", "there")
	_, o = run(t, f, project(), set(t, docs...))
	require.Equal(t, "at there!", dataOf(t, w, "target"))
	require.Equal(t, gitops.ActionConfigured, o.get("target").Action)
}

func indexOf(list []string, what string) int {
	for i, s := range list {
		if s == what {
			return i
		}
	}
	return -1
}

func TestRun_StatusOfAnObjectOutsideOfTheSetIsPutInPlace(t *testing.T) {
	w := newWorld()
	f := w.process()
	id := inventory.ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Namespace: "elsewhere", Name: "d"}
	status := func(n int64) {
		live := w.objects[id]
		live.UID = "uid-d"
		w.version++
		live.ResourceVersion = fmt.Sprint(w.version)
		live.Object = snapshot(&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "d", "namespace": "elsewhere"},
			"status": map[string]any{"replicas": n},
		}})
		w.objects[id] = live
	}
	target := set(t, taking("target", "group: apps, kind: Deployment, name: d, namespace: elsewhere", "$.status.replicas", ""))

	result, o := run(t, f, project(), target)
	require.Equal(t, 1, result.Failed)
	require.Equal(t, "annotation config.kubernetes.io/apply-time-mutation: read the source Deployment elsewhere/d: not found", o.get("target").Message)

	status(3)
	result, o = run(t, f, project(), target)
	require.Zero(t, result.Failed, "%+v", o.newest)
	require.Equal(t, int64(3), dataOf(t, w, "target"))

	status(3) // another version with the same value
	f.calls = nil
	run(t, f, project(), target)
	require.Equal(t, []string{"resolve"}, f.calls)

	result, o = run(t, f, project(), target)
	watching := watch(t, f, project(), result, o)
	require.Empty(t, (<-watching.told).Drifted)
	status(4)
	w.changed(id)
	require.Equal(t, []inventory.ID{cmID("target")}, (<-watching.told).Drifted, "it is time for another run")
	watching.stop()
	run(t, f, project(), target)
	require.Equal(t, int64(4), dataOf(t, w, "target"))
}

func TestRun_MutationThatCannotBeMadeSaysWhy(t *testing.T) {
	for _, row := range []struct{ name, target, want string }{
		{"no such field", taking("target", "kind: ConfigMap, name: source", "$.data.nope", ""), "$.data.nope must match one field, and matches 0"},
		{"many fields", taking("target", "kind: ConfigMap, name: source", "$.metadata.*", ""), "$.metadata.* must match one field, and matches"},
		{"not a path", taking("target", "kind: ConfigMap, name: source", "'$.data[?('", ""), "$.data[?("},
		{"itself", taking("target", "kind: ConfigMap, name: target", "$.data.k", ""), "an object cannot be its own source"},
		{"a kind that is not served", taking("target", "group: example.com, kind: Widget, name: w", "$.data.k", ""), `no matches for kind "Widget" of the source w`},
		{"no name", taking("target", "kind: ConfigMap", "$.data.k", ""), "sourceRef needs a kind and a name"},
		{"no path", taking("target", "kind: ConfigMap, name: source", `""`, ""), "sourcePath and targetPath must be given"},
		{"no YAML", `{apiVersion: v1, kind: ConfigMap, metadata: {name: target, annotations: {config.kubernetes.io/apply-time-mutation: "{{"}}}`, "apply-time-mutation"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			result, o := run(t, w.process(), project(), set(t, row.target, cm("source", "1"), cm("other", "1")))
			require.Equal(t, 1, result.Failed)
			require.Contains(t, o.get("target").Message, row.want)
			require.Equal(t, gitops.ActionCreated, o.get("other").Action)
		})
	}
}

func TestRun_SourcesMayNotGoRoundInACircle(t *testing.T) {
	w := newWorld()
	result, o := run(t, w.process(), project(), set(t,
		taking("a", "kind: ConfigMap, name: b", "$.data.k", ""), taking("b", "kind: ConfigMap, name: a", "$.data.k", ""), cm("c", "1")))
	require.Equal(t, 2, result.Failed)
	require.Contains(t, o.get("a").Message, "goes round in a circle: ConfigMap default/a -> ConfigMap default/b -> ConfigMap default/a")
	require.Equal(t, map[string]bool{"c": true}, w.names())
}

func TestRun_ValueFromASecretIsMaskedInErrors(t *testing.T) {
	w := newWorld()
	f := w.process()
	f.fault = func(call string) error {
		if call == "before apply target" {
			return errColour
		}
		return nil
	}
	_, o := run(t, f, project(), set(t, taking("target", "kind: Secret, name: source", "$.stringData.k", ""),
		`{apiVersion: v1, kind: Secret, metadata: {name: source}, stringData: {k: hunter22}}`))
	require.Equal(t, "denied: (masked) is no colour", o.get("target").Message)
}

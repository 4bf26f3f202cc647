package gitops

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

func TestSpliced_IsWhatTheLongWayMakes(t *testing.T) {
	for _, row := range []struct {
		name, json, namespace string
		long                  bool
	}{
		{name: "neither annotations nor a namespace", json: `{"apiVersion":"v1","data":{"a":"}"},"kind":"ConfigMap","metadata":{"name":"n"}}`, namespace: "ns"},
		{name: "annotations", json: `{"kind":"A","metadata":{"annotations":{"a":"b"},"name":"n"},"z":[1,{"metadata":{}}]}`, namespace: "ns"},
		{name: "no annotation in annotations", json: `{"kind":"A","metadata":{"annotations":{},"name":"n"}}`, namespace: "ns"},
		{name: "a namespace", json: `{"kind":"A","metadata":{"name":"n","namespace":"other"}}`, namespace: "ns"},
		{name: "both", json: `{"kind":"A","metadata":{"annotations":{"a":"b"},"labels":{"namespace":"x"},"name":"n","namespace":"ns"}}`, namespace: "ns"},
		{name: "cluster-scoped", json: `{"kind":"A","metadata":{"name":"n"},"spec":{"annotations":{}}}`},
		{name: "empty metadata", json: `{"kind":"A","metadata":{}}`, namespace: "ns"},
		{name: "numbers and words", json: `{"a":1,"b":true,"c":null,"d":[],"kind":"A","metadata":{"name":"n"}}`, namespace: "ns"},
		{name: "text that looks like JSON", json: `{"a":"\"metadata\":{}\\","kind":"A","metadata":{"name":"n"}}`, namespace: "ns"},
		{name: "cluster-scoped with a namespace", json: `{"kind":"A","metadata":{"name":"n","namespace":"ns"}}`, long: true},
		{name: "an owner already", json: `{"kind":"A","metadata":{"annotations":{"config.k8s.io/owning-inventory":"x"},"name":"n"}}`, namespace: "ns", long: true},
		{name: "annotations are null", json: `{"kind":"A","metadata":{"annotations":null,"name":"n"}}`, namespace: "ns", long: true},
		{name: "an escaped key", json: `{"kind":"A","met\u0061data":{"name":"n"}}`, namespace: "ns", long: true},
		{name: "not canonical", json: `{"kind":"A", "metadata":{"name":"n"}}`, namespace: "ns", long: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, ok := spliced([]byte(row.json), row.namespace, "1-2")
			require.Equal(t, !row.long, ok)
			id := inventory.ID{Namespace: row.namespace}
			whole, err := payload(&manifests.Object{JSON: []byte(row.json)}, id, "1-2")
			require.NoError(t, err)
			want := slowPayload(t, row.json, id)
			require.JSONEq(t, want, string(whole))
			if ok {
				require.JSONEq(t, want, string(got))
			}
		})
	}
}

// slowPayload goes the long way.
func slowPayload(tb testing.TB, data string, id inventory.ID) string {
	tb.Helper()
	u, err := (&manifests.Object{JSON: []byte(data)}).Unstructured()
	require.NoError(tb, err)
	out, err := marked(u, id, "1-2")
	require.NoError(tb, err)
	return string(out)
}

func FuzzSpliced(f *testing.F) {
	f.Add(`{"kind":"A","metadata":{"annotations":{"a":"b"},"name":"n"},"z":[1,{"metadata":{}}]}`, "ns")
	f.Add(`{"kind":"A","metadata":{"name":"n\"","namespace":"other"}}`, "")
	f.Add(`{"a":{"metadata":{"annotations":{}}},"kind":"A","metadata":{}}`, "x")
	f.Fuzz(func(t *testing.T, data, namespace string) {
		var content map[string]any
		if json.Unmarshal([]byte(data), &content) != nil || content["kind"] == nil || !plain(namespace) {
			t.Skip()
		}
		canonical, err := json.Marshal(content)
		require.NoError(t, err)
		got, ok := spliced(canonical, namespace, "1-2")
		if !ok {
			return
		}
		u, err := (&manifests.Object{JSON: canonical}).Unstructured()
		if err != nil {
			t.Skip() // such as a kind that is no text
		}
		want, err := marked(u, inventory.ID{Namespace: namespace}, "1-2")
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(got))
	})
}

func BenchmarkPayload(b *testing.B) {
	data := `{"apiVersion":"v1","data":{"key":"some text that is neither long nor short"},"kind":"ConfigMap","metadata":{"name":"a-name","namespace":"ns"}}`
	o := &manifests.Object{JSON: []byte(data)}
	for b.Loop() {
		if _, err := payload(o, inventory.ID{Namespace: "ns", Name: "a-name"}, "1-2"); err != nil {
			b.Fatal(err)
		}
	}
}

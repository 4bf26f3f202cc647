package inventory

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSortedFields_OnlyWhatStaysAsItIs(t *testing.T) {
	for _, row := range []struct {
		name, json string
		want       bool
	}{
		{"fields of a ConfigMap", `{"f:data":{"f:key":{}},"f:metadata":{"f:annotations":{".":{},"f:owner":{}}}}`, true},
		{"items of a list by their keys", `{"f:spec":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}},"k:{\"name\":\"b\"}":{}}}`, true},
		{"a quote comes before a letter", `{"a\"":{},"ab":{}}`, true},
		{"no field", `{}`, true},
		{"keys in another order", `{"f:spec":{},"f:data":{}}`, false},
		{"keys in another order further down", `{"f:a":{"f:c":{},"f:b":{}}}`, false},
		{"a key that is there twice", `{"f:a":{},"f:a":{}}`, false},
		{"space", `{"f:a": {}}`, false},
		{"a sign that is escaped otherwise", `{"f:<":{}}`, false},
		{"a letter beyond ASCII", `{"f:ä":{}}`, false},
		{"an escaped letter", `{"f:\u0061":{}}`, false},
		{"another type of value", `{"f:a":1}`, false},
		{"a list", `[]`, false},
		{"something after the end", `{}{}`, false},
		{"a comma without a key", `{"f:a":{},}`, false},
		{"no end", `{"f:a":{}`, false},
		{"an end too many", `{}}`, false},
		{"an end without a beginning", `}`, false},
		{"nothing", ``, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, sortedFields([]byte(row.json)))
		})
	}
}

func FuzzSortedFields(f *testing.F) {
	f.Add([]byte(`{"f:metadata":{".":{},"k:{\"name\":\"b\"}":{"f:x":{}}}}`))
	f.Add([]byte(`{"a":{},"b":{"c":{}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if !sortedFields(data) {
			return
		}
		var v any
		require.NoError(t, json.Unmarshal(data, &v))
		again, err := json.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, string(again), string(data))
	})
}

func BenchmarkSortedFields(b *testing.B) {
	data := []byte(`{"f:data":{"f:key":{}},"f:metadata":{"f:annotations":{".":{},"f:config.k8s.io/owning-inventory":{}}}}`)
	b.ReportAllocs()
	for b.Loop() {
		sortedFields(data)
	}
}

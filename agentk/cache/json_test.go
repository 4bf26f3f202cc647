package cache

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/labels"
)

func TestMetadataOf_ReadsWhatJSONHasWithoutDecodingIt(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		json    string
		created time.Time
		labels  labels.Set
	}{
		"an object with both":             {`{"kind":"Pod","metadata":{"creationTimestamp":"2026-01-02T03:04:05Z","labels":{"a":"b"}},"spec":{}}`, created, labels.Set{"a": "b"}},
		"labels that are escaped":         {`{"data":{"a\"b":"}]\\"},"metadata":{"labels":{"a":"<\"\\"},"name":"\\\""}}`, time.Time{}, labels.Set{"a": `<"\`}},
		"labels below something else":     {`{"spec":{"metadata":{"labels":{"a":"b"}}},"metadata":{"name":"x"}}`, time.Time{}, nil},
		"an object that was never stored": {`{"metadata":{"creationTimestamp":null,"labels":null}}`, time.Time{}, nil},
		"no metadata":                     {`{"kind":"Pod"}`, time.Time{}, nil},
		"metadata that are a number":      {`{"metadata":12}`, time.Time{}, nil},
		"what is cut off":                 {`{"metadata":{"labels":{"a":"b`, time.Time{}, nil},
		"nothing":                         {``, time.Time{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []*shared{nil, {}} {
				gotCreated, gotLabels := metadataOf([]byte(c.json), s)
				require.Equal(t, c.created, gotCreated)
				require.Equal(t, c.labels, gotLabels)
			}
		})
	}
}

func TestOnlyMetadata_CutsTheRest(t *testing.T) {
	require.JSONEq(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`,
		string(onlyMetadata([]byte(`{"apiVersion":"v1","data":{"metadata":"}"},"kind":"Pod","metadata":{"name":"x"},"spec":{"a":[1,2]}}`))))
	require.JSONEq(t, `{"kind":"Pod"}`, string(onlyMetadata([]byte(`{"kind":"Pod"}`))))
	require.JSONEq(t, `{}`, string(onlyMetadata([]byte(`nonsense`))))
}

func FuzzEachMember(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":[{}],"c":{"d":"\\\""},"e":null,"f":-1.5e3}`, `{}`, `{"a":`, `{"a":"\`, `[1]`, `{"\u0061":true}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found := map[string]json.RawMessage{}
		eachMember([]byte(text), func(key, value []byte) bool {
			found[string(key)] = value
			return true
		})
		metadataOf([]byte(text), &shared{})
		onlyMetadata([]byte(text))
		var whole map[string]any
		if json.Unmarshal([]byte(text), &whole) != nil {
			return
		}
		// As the cache has it.
		canonical, err := json.Marshal(whole)
		require.NoError(t, err)
		if whole == nil {
			return
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(canonical, &want))
		got := map[string]json.RawMessage{}
		eachMember(canonical, func(key, value []byte) bool {
			var name string
			require.NoError(t, json.Unmarshal([]byte(`"`+string(key)+`"`), &name))
			got[name] = value
			return true
		})
		require.Len(t, got, len(want))
		for key, value := range want {
			require.Equal(t, string(value), string(got[key]))
		}
	})
}

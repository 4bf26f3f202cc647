package rawjson

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAppendMetadata_LeavesTheRestOut(t *testing.T) {
	for whole, want := range map[string]string{
		`{"apiVersion":"v1","data":{"metadata":1},"kind":"Secret","metadata":{"name":"a"},"spec":{}}`: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`,
		`{"data":{"metadata":"}"},"kind":"Pod","metadata":{"name":"x"},"spec":{"a":[1,2]}}`:           `{"kind":"Pod","metadata":{"name":"x"}}`,
		`{"spec":{"kind":2},"metadata":{},"kind":"K"}`:                                                `{"kind":"K","metadata":{}}`,
		"{ \"kind\" : \"K\" }\n": `{"kind":"K"}`,
		`{}`:                     `{}`,
		`nonsense`:               `{}`,
	} {
		require.Equal(t, want, string(AppendMetadata(nil, []byte(whole))))
		require.Equal(t, "before "+want, string(AppendMetadata([]byte("before "), []byte(whole))))
	}
}

// A text of a ConfigMap may be a megabyte of lines: each line's end is an escape.
func TestMembers_PassTextsOfManyEscapesOnce(t *testing.T) {
	object, err := json.Marshal(map[string]any{"data": strings.Repeat("line\n\"\\", 1<<17), "metadata": map[string]any{"name": "x"}})
	require.NoError(t, err)
	var keys []string
	Members(object, func(key, _ []byte) bool {
		keys = append(keys, string(key))
		return true
	})
	require.Equal(t, []string{"data", "metadata"}, keys)
}

// FuzzMembers holds what is found against what decoding finds.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		`{"a":1,"b":[{}],"c":{"d":"\\\""},"e":null,"f":-1.5e3}`, ` { "a" : [ 1 , "]" ] } `, `{}`, `{"a":`, `{"a":"\`, `[1]`, `{"\u0061":true}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := map[string]json.RawMessage{}
		n := 0
		Members([]byte(text), func(key, value []byte) bool {
			n++
			var name string
			if json.Unmarshal([]byte(`"`+string(key)+`"`), &name) == nil {
				got[name] = value
			}
			return true
		})
		cut := AppendMetadata(nil, []byte(text))
		var whole map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &whole) != nil {
			return // it must do no harm, no more
		}
		require.True(t, json.Valid(cut), "%q was cut to %q", text, cut)
		if n != len(whole) {
			require.Greater(t, n, len(whole)) // a key that is there twice
			return
		}
		for key, value := range whole {
			require.JSONEq(t, string(value), string(got[key]))
		}
	})
}

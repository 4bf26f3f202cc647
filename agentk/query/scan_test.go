package query

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/rawjson"
)

func TestLookUp_FindsFieldsAsTheyAreWritten(t *testing.T) {
	const data = ` { "a" : { "b\"" : "x}\\" , "n":-1.5e3, "t" : true, "z":null, "l":[{"b":1}], "m":{} , "" : "e"}, "c":"d","e\u0061":1 } `
	for path, want := range map[string]string{
		"a.n": "-1.5e3", "a.t": "true", "c": "d", "ea": "1", `a.b"`: `x}\`, "a.": "e",
		// What is no text, number or truth value, or is not there, is like an empty text.
		"a.z": "", "a.l": "", "a.m": "", "a": "", "a.b": "", "a.l.b": "", "x": "", "c.d": "",
	} {
		require.True(t, isText(lookUp([]byte(data), strings.Split(path, ".")), want), path)
		require.False(t, isText(lookUp([]byte(data), strings.Split(path, ".")), want+"!"), path)
	}
}

// FuzzLookUp holds looking up in JSON against decoding it.
func FuzzLookUp(f *testing.F) {
	f.Add([]byte(`{"a":{"b":"c\"\\"}}`), "a", "b")
	f.Add([]byte(`{"a":[1,{"x":"]"}],"b":tru`), "b", "")
	f.Add([]byte(`{"a\u0062":"\ud800"}`), "ab", "c")
	f.Add([]byte(`{"`), "", "")
	f.Fuzz(func(t *testing.T, data []byte, one, two string) {
		got := lookUp(data, []string{one, two})
		var whole map[string]json.RawMessage
		if json.Unmarshal(data, &whole) != nil || strings.Contains(string(data), `\`) {
			return // it must do no harm, no more; escapes are the tests' above
		}
		var inner map[string]json.RawMessage
		if keys(data) != len(whole) || json.Unmarshal(whole[one], &inner) != nil || keys(whole[one]) != len(inner) {
			return // a key that is there twice
		}
		want, ok := inner[two]
		if !ok && got == nil {
			return
		}
		var a, b any
		if json.Unmarshal(want, &a) != nil || json.Unmarshal(got, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("in %q: got %q, want %q", data, got, want)
		}
	})
}

func keys(object []byte) (n int) {
	rawjson.Members(object, func(_, _ []byte) bool {
		n++
		return true
	})
	return n
}

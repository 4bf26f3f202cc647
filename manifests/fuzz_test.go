package manifests

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"

	"sigs.k8s.io/yaml"
)

// FuzzCanonical checks what digests rest on: the canonical JSON of an object does not
// change when it is read again, and is the same however the object was written.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"b":1,"a":[1.0,1e3,-0.0,"\u00e9"],"z":null}`, `{"a":{"c":{},"b":[[],{}]}}`, `{"n":18446744073709551615,"m":9223372036854775808,"x":1e-9}`,
		`{"t":"yes","u":"1e3","v":"0x1F","w":"2001-01-01","x":"~","y":"<&>\u2028"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, spec []byte) {
		data := append([]byte(`{"apiVersion":"v1","kind":"X","metadata":{"name":"a"},"spec":`), append(bytes.Clone(spec), '}')...)
		first := ParseFile("a.json", data, DefaultLimits())
		if len(first.Errors) > 0 || len(first.Objects) != 1 {
			t.Skip("no object")
		}
		o := &first.Objects[0]
		if o.Digest != sha256.Sum256(o.JSON) {
			t.Fatal("the digest is not that of the JSON")
		}
		same := func(how string, data []byte, path string) {
			t.Helper()
			again := ParseFile(path, data, DefaultLimits())
			if len(again.Errors) > 0 || len(again.Objects) != 1 {
				t.Fatalf("%s: %v", how, again.Errors)
			}
			if got := &again.Objects[0]; got.Digest != o.Digest || !bytes.Equal(got.JSON, o.JSON) {
				t.Fatalf("%s:\nwant %s\n got %s", how, o.JSON, got.JSON)
			}
		}
		same("read again", o.JSON, "a.json")
		var indented bytes.Buffer
		if err := json.Indent(&indented, o.JSON, "", "\t"); err != nil {
			t.Fatal(err)
		}
		same("indented", indented.Bytes(), "a.json")
		asYAML, err := yaml.JSONToYAML(o.JSON)
		if err != nil {
			t.Skip("it cannot be written as YAML")
		}
		if back, err := yaml.YAMLToJSON(asYAML); err != nil || !bytes.Equal(back, o.JSON) {
			t.Skip("that library's YAML does not give it back: large numbers become floating point there")
		}
		same("as YAML", asYAML, "a.yaml")
	})
}

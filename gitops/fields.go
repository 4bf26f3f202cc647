package gitops

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	maskedChanged = "(masked, changed)"
	// lastApplied is where kubectl keeps whole objects, Secrets too.
	lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

	// maxValue is the longest value that is shown in full, in bytes of JSON.
	maxValue = 4 << 10
	// leadIn is how much of a long text is shown before its first difference.
	leadIn = 200
	// maxFieldBytes bounds what is shown of one object.
	maxFieldBytes = 256 << 10
)

// plainKey is a key that needs no quotes in a path.
var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// compareObjects lists the fields that differ, without those that the API server sets by
// itself, and says how many more there are. secret: values are masked, those of a Secret
// or, in other kinds, all. Both objects are changed.
func compareObjects(before, after *unstructured.Unstructured, secret bool) (fields []FieldDifference, more int) {
	for _, u := range []*unstructured.Unstructured{before, after} {
		delete(u.Object, "status")
		if metadata, ok := u.Object["metadata"].(map[string]any); ok {
			for _, key := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"} {
				delete(metadata, key)
			}
		}
	}
	maskValues(child(child(before.Object, "metadata"), "annotations"), child(child(after.Object, "metadata"), "annotations"),
		func(key string) bool { return key == lastApplied })
	if secret {
		switch after.GetKind() {
		case "Secret":
			maskField(before.Object, after.Object, "data")
			maskField(before.Object, after.Object, "stringData")
		default:
			maskValues(before.Object, after.Object, func(key string) bool {
				return key != "metadata" && key != "kind" && key != "apiVersion"
			})
		}
	}
	c := &comparison{}
	c.compare("", before.Object, after.Object)
	return c.fields, c.more
}

func child(m map[string]any, key string) map[string]any {
	c, _ := m[key].(map[string]any)
	return c
}

// maskField masks all values of a map, or the field itself if it is none.
func maskField(before, after map[string]any, field string) {
	_, wasMap := before[field].(map[string]any)
	_, isMap := after[field].(map[string]any)
	_, was := before[field]
	_, is := after[field]
	if was && !wasMap || is && !isMap {
		maskValues(before, after, func(key string) bool { return key == field })
		return
	}
	maskValues(child(before, field), child(after, field), func(string) bool { return true })
}

// maskValues replaces the values of keys, so that it still shows where they differ.
func maskValues(before, after map[string]any, which func(key string) bool) {
	for key, value := range before {
		if !which(key) {
			continue
		}
		if other, ok := after[key]; ok {
			after[key] = masked
			if !reflect.DeepEqual(value, other) {
				after[key] = maskedChanged
			}
		}
		before[key] = masked
	}
	for key := range after {
		if _, ok := before[key]; !ok && which(key) {
			after[key] = masked
		}
	}
}

// comparison gathers what differs.
type comparison struct {
	fields []FieldDifference
	bytes  int
	more   int
}

func (c *comparison) compare(path string, before, after any) {
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			c.compareMaps(path, b, a)
			return
		}
	case []any:
		if a, ok := after.([]any); ok {
			c.compareLists(path, b, a)
			return
		}
	}
	if !reflect.DeepEqual(before, after) {
		from, to := shorten(before, after)
		c.add(path, encode(from), encode(to))
	}
}

func (c *comparison) compareMaps(path string, before, after map[string]any) {
	keys := make([]string, 0, len(before)+len(after))
	for key := range before {
		keys = append(keys, key)
	}
	for key := range after {
		if _, ok := before[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		here := path + "." + key
		if !plainKey.MatchString(key) {
			here = path + "[" + strconv.Quote(key) + "]"
		}
		b, was := before[key]
		a, is := after[key]
		switch {
		case !was:
			c.add(here, "", encode(a))
		case !is:
			c.add(here, encode(b), "")
		default:
			c.compare(here, b, a)
		}
	}
}

// compareLists compares by place, but for what is the same at both ends: one element put
// in at the front is one difference. Elements that moved are told by their names.
func (c *comparison) compareLists(path string, before, after []any) {
	if moved(before, after) {
		c.compareNamed(path, before, after)
		return
	}
	start, end := 0, 0
	if len(before) != len(after) {
		shorter := min(len(before), len(after))
		for start < shorter && reflect.DeepEqual(before[start], after[start]) {
			start++
		}
		for end < shorter-start && reflect.DeepEqual(before[len(before)-1-end], after[len(after)-1-end]) {
			end++
		}
	}
	was, is := before[:len(before)-end], after[:len(after)-end]
	for i := start; i < max(len(was), len(is)); i++ {
		here := path + "[" + strconv.Itoa(i) + "]"
		switch {
		case i >= len(was):
			c.add(here, "", encode(is[i]))
		case i >= len(is):
			c.add(here, encode(was[i]), "")
		default:
			c.compare(here, was[i], is[i])
		}
	}
}

// moved tells whether the elements of both lists have names, and one of them is not where
// it was.
func moved(before, after []any) bool {
	was, is := names(before), names(after)
	if was == nil || is == nil {
		return false
	}
	for i, name := range was {
		if at := slices.Index(is, name); at >= 0 && at != i {
			return true
		}
	}
	return false
}

// names of a list's elements, in order; nil where they have none, or two have the same.
func names(list []any) []string {
	const most = 1000 // finding one among others takes as many steps
	if len(list) > most {
		return nil
	}
	out := make([]string, 0, len(list))
	for _, element := range list {
		object, _ := element.(map[string]any)
		name, ok := object["name"].(string)
		if !ok || slices.Contains(out, name) {
			return nil
		}
		out = append(out, name)
	}
	return out
}

// compareNamed compares elements that have the same name.
func (c *comparison) compareNamed(path string, before, after []any) {
	was, is := names(before), names(after)
	var stayedBefore, stayedAfter []string
	for i, name := range was {
		here := path + "[name=" + name + "]"
		at := slices.Index(is, name)
		if at < 0 {
			c.add(here, encode(before[i]), "")
			continue
		}
		stayedBefore = append(stayedBefore, name)
		c.compare(here, before[i], after[at])
	}
	for i, name := range is {
		if slices.Contains(was, name) {
			stayedAfter = append(stayedAfter, name)
			continue
		}
		c.add(path+"[name="+name+"]", "", encode(after[i]))
	}
	if !slices.Equal(stayedBefore, stayedAfter) {
		c.add(path+" (order)", encode(stayedBefore), encode(stayedAfter))
	}
}

func (c *comparison) add(path, before, after string) {
	size := len(path) + len(before) + len(after)
	if c.bytes+size > maxFieldBytes {
		c.more++
		return
	}
	c.bytes += size
	c.fields = append(c.fields, FieldDifference{Path: path, Before: before, After: after})
}

// encode is a value as JSON. One that is too long is described instead.
func encode(value any) string {
	if text, ok := value.(string); ok && len(text) > maxValue {
		value = cut(text, 0)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return strconv.Quote("(cannot be shown)")
	}
	if _, text := value.(string); len(data) > maxValue && !text {
		return strconv.Quote(fmt.Sprintf("(%d bytes)", len(data)))
	}
	return string(data)
}

// shorten cuts two long texts to where they begin to differ.
func shorten(before, after any) (from, to any) {
	b, isText := before.(string)
	a, both := after.(string)
	if !isText || !both || len(a) <= maxValue && len(b) <= maxValue {
		return before, after
	}
	same := 0
	for same < len(a) && same < len(b) && a[same] == b[same] {
		same++
	}
	start := max(0, same-leadIn)
	return cut(b, start), cut(a, start)
}

// cut takes a part of a long text, on the borders of its letters.
func cut(text string, start int) string {
	for start > 0 && start < len(text) && !utf8.RuneStart(text[start]) {
		start--
	}
	end := min(len(text), start+maxValue)
	for end < len(text) && !utf8.RuneStart(text[end]) {
		end--
	}
	var b strings.Builder
	if start > 0 {
		b.WriteString("…")
	}
	b.WriteString(text[start:end])
	if end < len(text) {
		b.WriteString("…")
	}
	return b.String()
}

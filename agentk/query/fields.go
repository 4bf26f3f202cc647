package query

import (
	"bytes"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/kas-agentk/kas/internal/objects"
)

// requirement is what one field has to be.
type requirement struct {
	// path of the field. Those of metadata.name and metadata.namespace are known
	// without looking into the JSON.
	path  []string
	known func(*objects.Object) string
	value string
	// not: the field has to be something else.
	not bool
	// mention is in the JSON of every object whose field has the value; nil: that is
	// not so.
	mention []byte
}

// matches says whether an object has the field so. One that it lacks, or that is a list
// or a map, is like an empty text, as with the API server.
func (r *requirement) matches(o *objects.Object) bool {
	if r.known != nil {
		return (r.known(o) == r.value) != r.not
	}
	if r.mention != nil && !bytes.Contains(o.JSON, r.mention) {
		return r.not
	}
	return isText(lookUp(o.JSON, r.path), r.value) != r.not
}

// requirementsOf reads a field selector. deep is a field that only the JSON of whole
// objects has; empty: there is none.
func requirementsOf(text string) (requirements []requirement, deep string, err error) {
	if text == "" {
		return nil, "", nil
	}
	selector, err := fields.ParseSelector(text)
	if err != nil {
		return nil, "", invalid("field_selector %q cannot be read: %v", text, err)
	}
	for _, term := range selector.Requirements() {
		r := requirement{value: term.Value, not: term.Operator == selection.NotEquals}
		switch term.Field {
		case "metadata.name":
			r.known = func(o *objects.Object) string { return o.Name }
		case "metadata.namespace":
			r.known = func(o *objects.Object) string { return o.Namespace }
		default:
			if r.path, err = pathOf(term.Field); err != nil {
				return nil, "", err
			}
			r.mention = mentionOf(term.Value)
			deep = term.Field
		}
		requirements = append(requirements, r)
	}
	return requirements, deep, nil
}

// pathOf splits a field such as status.phase, or .status.phase.
func pathOf(field string) ([]string, error) {
	path := strings.Split(strings.TrimPrefix(field, "."), ".")
	for _, part := range path {
		if part == "" || strings.ContainsAny(part, "[]{}()*@'\"") {
			return nil, invalid(`field_selector: %q is no field: write names with dots between them, for example "status.phase"; elements of lists cannot be selected by`, field)
		}
	}
	return path, nil
}

// mentionOf returns a value as JSON has it, where there is but one way to write it.
func mentionOf(value string) []byte {
	if value == "" {
		return nil
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || strings.IndexByte(`"\/<>&`, c) >= 0 {
			return nil
		}
	}
	return []byte(value)
}

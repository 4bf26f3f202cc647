package gitops

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

const (
	// DriftAnnotation of a manifest with the value "ignore" has the object applied
	// when its manifest changes and not when somebody changes or deletes it in the
	// cluster.
	DriftAnnotation = "agent.gitlab.com/drift"
	// IgnoreFieldsAnnotation of a manifest names fields, as JSON pointers with
	// commas between them, that are left to whoever else sets them.
	IgnoreFieldsAnnotation = "agent.gitlab.com/ignore-fields"

	driftIgnore = "ignore"
)

var (
	errDriftValue = errors.New("annotation " + DriftAnnotation + ": the only value is \"" + driftIgnore + "\"")
	errPointer    = errors.New("is no JSON pointer: write it as in /spec/replicas, with ~1 for a slash and ~0 for a tilde in a name")
)

// pointers are JSON pointers (RFC 6901) to parts of an object.
var pointers = regexp.MustCompile(`^(/([^~/]|~[01])*)+$`)

// optOut is what of an object is left to others.
type optOut struct {
	// drift: what others do to the object in the cluster is not undone.
	drift bool
	// fields are JSON pointers.
	fields []string
}

// optOutOf reads the annotations of a manifest and the rules of the project. id is
// the one in the cluster.
func optOutOf(rules []IgnoreRule, id inventory.ID, o *manifests.Object) (optOut, error) {
	var out optOut
	for i := range rules {
		if rules[i].matches(id) {
			out.fields = append(out.fields, rules[i].Fields...)
		}
	}
	if !mentions(o, DriftAnnotation) && !mentions(o, IgnoreFieldsAnnotation) {
		return out, nil
	}
	var head struct {
		Metadata struct {
			Annotations map[string]any `json:"annotations"`
		} `json:"metadata"`
	}
	if json.Unmarshal(o.JSON, &head) != nil {
		return out, nil // applying it will tell
	}
	switch value := head.Metadata.Annotations[DriftAnnotation]; value {
	case nil:
	case driftIgnore:
		out.drift = true
	default:
		return out, fmt.Errorf("%w, not %q", errDriftValue, fmt.Sprint(value))
	}
	list, ok := head.Metadata.Annotations[IgnoreFieldsAnnotation].(string)
	if !ok {
		return out, nil
	}
	for field := range strings.SplitSeq(list, ",") {
		field = strings.TrimSpace(field)
		if !pointers.MatchString(field) {
			return out, fmt.Errorf("annotation %s: %q %w", IgnoreFieldsAnnotation, field, errPointer)
		}
		out.fields = append(out.fields, field)
	}
	return out, nil
}

// withFields is the digest to record of an object that was applied with fields that
// are left to others: once a rule goes, the object is to be applied again.
func withFields(digest inventory.Hash, fields []string) inventory.Hash {
	if len(fields) == 0 {
		return digest
	}
	h := sha256.New()
	_, _ = h.Write(digest[:])
	for _, field := range fields {
		_, _ = io.WriteString(h, field+"\n") // never fails
	}
	return inventory.Short([sha256.Size]byte(h.Sum(nil)))
}

func (r *IgnoreRule) matches(id inventory.ID) bool {
	return (r.Kind == "" || r.Kind == id.GroupKind.Kind && r.Group == id.GroupKind.Group) &&
		(r.Namespace == "" || r.Namespace == id.Namespace) &&
		(r.Name == "" || r.Name == id.Name)
}

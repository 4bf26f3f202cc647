package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/kas-agentk/kas/gitops"
)

// yieldTries is how often an object may change between the look at who owns its
// fields and the apply.
const yieldTries = 5

// patch sends an apply. Of one that yields fields, those are left out that somebody
// else owns by now and we do not; the API server is told which version of the object
// that was seen of, so that nobody who sets one of them in between is overruled.
func (c *Cluster) patch(ctx context.Context, client metadata.ResourceInterface, a gitops.Apply, opts metav1.PatchOptions) (*metav1.PartialObjectMetadata, error) {
	if len(a.Yield) == 0 {
		return client.Patch(ctx, a.ID.Name, types.ApplyPatchType, a.JSON, opts) //nolint:wrapcheck // Apply's own
	}
	for try := 1; ; try++ {
		data, err := yielding(ctx, client, a)
		if err != nil {
			return nil, err
		}
		got, err := client.Patch(ctx, a.ID.Name, types.ApplyPatchType, data, opts)
		if !apierrors.IsConflict(err) || try == yieldTries {
			return got, err //nolint:wrapcheck // Apply's own
		}
	}
}

// yielding is the JSON of an apply without what is left to others.
func yielding(ctx context.Context, client metadata.ResourceInterface, a gitops.Apply) ([]byte, error) {
	live, err := client.Get(ctx, a.ID.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return a.JSON, nil
	case err != nil:
		return nil, err //nolint:wrapcheck // Apply's own
	}
	owners, err := ownersOf(live.ManagedFields)
	if err != nil {
		return nil, fmt.Errorf("read who owns the fields of %s: %w", a.ID, err)
	}
	var manifest any
	if err := json.Unmarshal(a.JSON, &manifest); err != nil {
		return nil, fmt.Errorf("decode %s: %w", a.ID, err)
	}
	object, ok := manifest.(map[string]any)
	if !ok {
		return a.JSON, nil // for the API server to refuse
	}
	owners.strip(object, a.Yield)
	unstructured.RemoveNestedField(object, "metadata", "resourceVersion")
	if err := unstructured.SetNestedField(object, live.ResourceVersion, "metadata", "resourceVersion"); err != nil {
		return a.JSON, nil //nolint:nilerr // for the API server to refuse
	}
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", a.ID, err)
	}
	return data, nil
}

// strip removes what the pointers lead to, as far as somebody else owns it and we do
// not.
func (o owners) strip(manifest map[string]any, pointers []string) {
	var gone []fieldpath.Path
	o.lost(manifest, func(_ string, field fieldpath.Path) {
		for _, pointer := range pointers {
			if reaches(manifest, pointer, field) {
				gone = append(gone, field)
				return
			}
		}
	})
	// From the back, so that the indexes of lists stay what they are.
	slices.SortFunc(gone, func(a, b fieldpath.Path) int { return b.Compare(a) })
	for _, field := range gone {
		remove(manifest, field)
	}
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// reaches says that a JSON pointer leads to the field, to something that it is part
// of, or into it where it has but one owner as a whole.
func reaches(manifest any, pointer string, field fieldpath.Path) bool {
	tokens := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	v := manifest
	for n, element := range field {
		if n == len(tokens) {
			return true
		}
		part, index, ok := child(v, element)
		if !ok {
			return false
		}
		token := unescape.Replace(tokens[n])
		if element.FieldName != nil && *element.FieldName != token ||
			element.FieldName == nil && strconv.Itoa(index) != token {
			return false
		}
		v = part
	}
	return true
}

// remove takes a field out of a map or list, and with it the maps that are empty
// then: to set an empty map is to own it. It returns what is left.
func remove(v any, field fieldpath.Path) any {
	part, index, ok := child(v, field[0])
	if !ok {
		return v
	}
	if len(field) > 1 {
		part = remove(part, field[1:])
	}
	switch whole := v.(type) {
	case map[string]any:
		if m, isMap := part.(map[string]any); len(field) == 1 || isMap && len(m) == 0 {
			delete(whole, *field[0].FieldName)
		} else {
			whole[*field[0].FieldName] = part
		}
		return whole
	case []any:
		if len(field) == 1 {
			return slices.Delete(whole, index, index+1)
		}
		whole[index] = part
		return whole
	default:
		return v
	}
}

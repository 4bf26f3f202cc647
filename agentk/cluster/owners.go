package cluster

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// contendedFields is how many fields of one contender are named.
const contendedFields = 20

// Contenders implements gitops.Cluster.
func (c *Cluster) Contenders(ctx context.Context, id inventory.ID, manifest []byte) ([]gitops.Contender, error) {
	client, err := c.client(ctx, id.GroupKind.WithVersion(""), id.Namespace)
	if err != nil {
		return nil, err
	}
	live, err := client.Get(ctx, id.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ask who owns the fields of %s: %w", id, explain(err))
	}
	var wanted any
	if err := json.Unmarshal(manifest, &wanted); err != nil {
		return nil, fmt.Errorf("decode %s: %w", id, err)
	}
	owners, err := ownersOf(live.ManagedFields)
	if err != nil {
		return nil, fmt.Errorf("read who owns the fields of %s: %w", id, err)
	}
	return owners.contenders(wanted), nil
}

// owners of an object's fields.
type owners struct {
	ours *fieldpath.Set
	// others are the innermost fields that each other manager owns, by any operation
	// and subresource.
	others map[string]*fieldpath.Set
}

// ownersOf reads managedFields.
func ownersOf(entries []metav1.ManagedFieldsEntry) (owners, error) {
	o := owners{ours: fieldpath.NewSet(), others: map[string]*fieldpath.Set{}}
	for i := range entries {
		e := &entries[i]
		if e.FieldsV1 == nil {
			continue
		}
		set := fieldpath.NewSet()
		if err := set.FromJSON(bytes.NewReader(e.FieldsV1.GetRawBytes())); err != nil {
			return owners{}, fmt.Errorf("managedFields of %s: %w", e.Manager, err)
		}
		switch {
		case e.Manager == FieldManager && e.Operation == metav1.ManagedFieldsOperationApply:
			o.ours = o.ours.Union(set)
		case o.others[e.Manager] == nil:
			o.others[e.Manager] = set.Leaves()
		default:
			o.others[e.Manager] = o.others[e.Manager].Union(set.Leaves())
		}
	}
	return o, nil
}

// lost yields the fields that a manifest sets, that somebody else owns, and that we
// do not.
func (o owners) lost(manifest any, yield func(manager string, field fieldpath.Path)) {
	for _, manager := range slices.Sorted(maps.Keys(o.others)) {
		for field := range o.others[manager].Difference(o.ours).All() {
			// Who owns a whole map of which we own parts contends for none of them.
			if _, set := find(manifest, field); set && !beneath(o.ours, field) {
				yield(manager, field.Copy())
			}
		}
	}
}

// beneath says that the set has fields inside of this one.
func beneath(set *fieldpath.Set, field fieldpath.Path) bool {
	for _, element := range field {
		var ok bool
		if set, ok = set.Children.Get(element); !ok {
			return false
		}
	}
	return !set.Empty()
}

// contenders for the fields of a manifest.
func (o owners) contenders(manifest any) []gitops.Contender {
	var out []gitops.Contender
	o.lost(manifest, func(manager string, field fieldpath.Path) {
		if len(out) == 0 || out[len(out)-1].Manager != manager {
			out = append(out, gitops.Contender{Manager: manager})
		}
		last := &out[len(out)-1]
		last.Fields = append(last.Fields, field.String())
	})
	for i := range out {
		slices.Sort(out[i].Fields)
		out[i].Fields = out[i].Fields[:min(len(out[i].Fields), contendedFields)]
	}
	return out
}

// find returns the value of a field.
func find(v any, field fieldpath.Path) (any, bool) {
	for _, element := range field {
		var ok bool
		if v, _, ok = child(v, element); !ok {
			return nil, false
		}
	}
	return v, true
}

// child returns the part of a map or list that a path element means, and its index in
// a list.
func child(v any, element fieldpath.PathElement) (part any, index int, ok bool) {
	if element.FieldName != nil {
		m, isMap := v.(map[string]any)
		if !isMap {
			return nil, 0, false
		}
		part, ok = m[*element.FieldName]
		return part, 0, ok
	}
	list, isList := v.([]any)
	if !isList {
		return nil, 0, false
	}
	for i, item := range list {
		if means(element, i, item) {
			return item, i, true
		}
	}
	return nil, 0, false
}

// means says that a path element stands for this item of a list.
func means(element fieldpath.PathElement, i int, item any) bool {
	switch {
	case element.Index != nil:
		return *element.Index == i
	case element.Value != nil:
		return value.Equals(value.NewValueInterface(item), *element.Value)
	case element.Key != nil:
		m, isMap := item.(map[string]any)
		if !isMap {
			return false
		}
		matched := false
		for _, field := range *element.Key {
			// A key that the manifest leaves out has its default in the cluster.
			if part, set := m[field.Name]; set {
				if !value.Equals(value.NewValueInterface(part), field.Value) {
					return false
				}
				matched = true
			}
		}
		return matched
	default:
		return false
	}
}

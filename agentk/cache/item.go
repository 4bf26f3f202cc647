package cache

import (
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kas-agentk/kas/inventory"
)

// item is an object as it is kept.
type item struct {
	*unstructured.Unstructured
	// ownership is the hash of the fields that we own.
	ownership inventory.Hash
}

// project makes an item of what the API server sent. An informer may call it again
// with its own result.
func (r *resource) project(obj any) (any, error) {
	switch o := obj.(type) {
	case *item:
		return o, nil
	case *unstructured.Unstructured:
		ownership := ownershipOf(o, r.cache.cfg.FieldManager)
		strip(o)
		return &item{Unstructured: o, ownership: ownership}, nil
	case *metav1.PartialObjectMetadata:
		ownership := inventory.OwnershipOf(o.ManagedFields, r.cache.cfg.FieldManager)
		o.ManagedFields = nil
		// The type is that of the projection, not of the object.
		o.TypeMeta = metav1.TypeMeta{}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return nil, fmt.Errorf("project %s %s/%s: %w", r.mapping.Resource.GroupResource(), o.Namespace, o.Name, err)
		}
		u := &unstructured.Unstructured{Object: content}
		u.SetGroupVersionKind(r.mapping.GroupVersionKind)
		strip(u)
		return &item{Unstructured: u, ownership: ownership}, nil
	default:
		return obj, nil // a tombstone
	}
}

// strip removes what nobody needs.
func strip(u *unstructured.Unstructured) {
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	unstructured.RemoveNestedField(u.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
}

// ownershipOf is inventory.OwnershipOf without decoding what others own.
func ownershipOf(u *unstructured.Unstructured, manager string) inventory.Hash {
	raw, _, err := unstructured.NestedFieldNoCopy(u.Object, "metadata", "managedFields")
	list, ok := raw.([]any)
	if err != nil || !ok {
		return inventory.Hash{}
	}
	var own []metav1.ManagedFieldsEntry
	for _, e := range list {
		entry, ok := e.(map[string]any)
		if !ok || entry["manager"] != manager || entry["operation"] != string(metav1.ManagedFieldsOperationApply) {
			continue
		}
		fields, err := json.Marshal(entry["fieldsV1"])
		if err != nil {
			continue
		}
		text := func(key string) string { s, _ := entry[key].(string); return s }
		f := &metav1.FieldsV1{}
		f.SetRawBytes(fields)
		var applied *metav1.Time
		if at, err := time.Parse(time.RFC3339, text("time")); err == nil {
			applied = &metav1.Time{Time: at}
		}
		own = append(own, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationApply,
			APIVersion: text("apiVersion"), Subresource: text("subresource"), Time: applied, FieldsV1: f,
		})
	}
	return inventory.OwnershipOf(own, manager)
}

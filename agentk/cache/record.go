package cache

import (
	"encoding/json"
	"fmt"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/internal/objects"
)

// record is an object that is kept for questions alone.
type record struct{ objects.Object }

var (
	_ entry          = (*record)(nil)
	_ runtime.Object = (*record)(nil)
)

func (r *record) key() objects.Key { return objects.Key{Namespace: r.Namespace, Name: r.Name} }

func (r *record) version() string { return r.ResourceVersion }

// show implements entry.
func (r *record) show(*shared) *objects.Object { return &r.Object }

// GetObjectKind has client-go take a record for an object.
func (r *record) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject returns the record itself, which never changes.
func (r *record) DeepCopyObject() runtime.Object { return r }

// GetObjectMeta has client-go find what it goes by.
func (r *record) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{
		Namespace: r.Namespace, Name: r.Name, UID: types.UID(r.UID), ResourceVersion: r.ResourceVersion,
	}
}

// projectAsked is project for informers that serve questions alone.
func (r *resource) projectAsked(obj any) (any, error) {
	var (
		meta metav1.Object
		data []byte
		err  error
	)
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		unstructured.RemoveNestedField(o.Object, "metadata", "managedFields")
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
		if r.store.redacted {
			redact(o.Object)
		}
		meta = o
		data, err = json.Marshal(o.Object)
	case *metav1.PartialObjectMetadata:
		o.ManagedFields = nil
		delete(o.Annotations, corev1.LastAppliedConfigAnnotation)
		o.SetGroupVersionKind(r.mapping.GroupVersionKind)
		meta = o
		data, err = json.Marshal(o)
	default:
		err = fmt.Errorf("%w: %T", errNoObject, obj)
	}
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w", r.mapping.Resource.GroupResource(), err)
	}
	return &record{objects.Object{
		Namespace: unique.Make(meta.GetNamespace()).Value(), Name: meta.GetName(),
		UID: string(meta.GetUID()), ResourceVersion: meta.GetResourceVersion(),
		Created: meta.GetCreationTimestamp().UTC(), Labels: labels.Set(meta.GetLabels()), JSON: data,
	}}, nil
}

// redact leaves of a Secret's values no more than their keys. It stays a valid Secret.
func redact(secret map[string]any) {
	for _, field := range []string{"data", "stringData"} {
		values, ok := secret[field].(map[string]any)
		if !ok {
			delete(secret, field)
			continue
		}
		for key := range values {
			values[key] = ""
		}
	}
}

package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/inventory"
)

// errNoObject is of an API server that answers with something else.
var errNoObject = errors.New("it is no object")

// entry is an object in a store. It never changes.
type entry interface {
	key() objects.Key
	// version is the resource version.
	version() string
	// show returns the object for questions. It uses what others share, where that is
	// not nil.
	show(shared *shared) *objects.Object
}

// item is an object as it is kept for the engine.
type item struct {
	namespace, name string
	live            gitops.Live
}

var _ entry = (*item)(nil)

func (it *item) key() objects.Key { return objects.Key{Namespace: it.namespace, Name: it.name} }

func (it *item) version() string { return it.live.ResourceVersion }

// show implements entry.
func (it *item) show(shared *shared) *objects.Object {
	data := it.live.Object.JSON()
	o := &objects.Object{
		Namespace: it.namespace, Name: it.name,
		UID: string(it.live.UID), ResourceVersion: it.live.ResourceVersion, JSON: data,
	}
	o.Created, o.Labels = metadataOf(data, shared)
	return o
}

// GetObjectMeta has client-go find what it goes by.
func (it *item) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{
		Namespace: it.namespace, Name: it.name, UID: it.live.UID, ResourceVersion: it.live.ResourceVersion,
	}
}

// project makes an entry of what the API server sent. An informer may call it again
// with its own result.
func (r *resource) project(obj any) (any, error) {
	if e, ok := obj.(entry); ok {
		return e, nil
	}
	if r.asked != nil {
		return r.projectAsked(obj)
	}
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		ownership := ownershipOf(o, r.cache.cfg.FieldManager)
		unstructured.RemoveNestedField(o.Object, "metadata", "managedFields")
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
		snapshot, err := gitops.NewSnapshot(o)
		if err != nil {
			return nil, fmt.Errorf("keep %s: %w", r.mapping.Resource.GroupResource(), err)
		}
		return newItem(o, ownership, snapshot), nil
	case *metav1.PartialObjectMetadata:
		ownership := inventory.OwnershipOf(o.ManagedFields, r.cache.cfg.FieldManager)
		o.ManagedFields = nil
		delete(o.Annotations, corev1.LastAppliedConfigAnnotation)
		snapshot, err := gitops.SnapshotOfMetadata(&o.ObjectMeta, r.mapping.GroupVersionKind)
		if err != nil {
			return nil, fmt.Errorf("keep %s: %w", r.mapping.Resource.GroupResource(), err)
		}
		return newItem(o, ownership, snapshot), nil
	default:
		return nil, fmt.Errorf("keep %s: %w: %T", r.mapping.Resource.GroupResource(), errNoObject, obj)
	}
}

// newItem holds on to nothing of o but short texts. Those that many have in common
// are kept once.
func newItem(o metav1.Object, ownership inventory.Hash, snapshot *gitops.Snapshot) *item {
	return &item{
		namespace: unique.Make(o.GetNamespace()).Value(), name: o.GetName(),
		live: gitops.Live{
			UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), Ownership: ownership, Object: snapshot,
			Owner: unique.Make(o.GetAnnotations()[gitops.OwnerAnnotation]).Value(),
		},
	}
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

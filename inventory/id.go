package inventory

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// ID is who an object is: group, kind, namespace and name, and no version, because
// the API server serves the same object in several. It is comparable. A
// cluster-scoped object's namespace is empty; so is, until the cluster has been
// asked about its kind, that of an object whose manifest names none.
type ID = object.ObjMetadata

// IDOf returns the ID of an object.
func IDOf(o *unstructured.Unstructured) ID {
	return object.UnstructuredToObjMetadata(o)
}

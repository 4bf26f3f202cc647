package gitops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/object"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// OwnerAnnotation of an object names the inventory that owns it.
const OwnerAnnotation = inventory.OwnerAnnotation

var errShape = errors.New("metadata and metadata.annotations must be maps")

// versionOf is the version in an object's apiVersion, without the group. It is read
// without decoding the object: the JSON is canonical, so that the key comes first in
// practice.
func versionOf(o *manifests.Object) string {
	var apiVersion []byte
	rest, first := bytes.CutPrefix(o.JSON, []byte(`{"apiVersion":"`))
	if end := bytes.IndexAny(rest, `"\`); first && end >= 0 && rest[end] == '"' {
		apiVersion = rest[:end]
	} else {
		var head struct {
			APIVersion string `json:"apiVersion"`
		}
		if json.Unmarshal(o.JSON, &head) != nil {
			return ""
		}
		apiVersion = []byte(head.APIVersion)
	}
	const common = "v1"
	version := apiVersion[bytes.LastIndexByte(apiVersion, '/')+1:]
	if string(version) == common {
		return common // spares nearly every object of every plan an allocation
	}
	return string(version)
}

// mentions spares decoding the many objects that do not have an annotation. It looks for
// the part of its name from the slash on, for in JSON there is much that begins as the
// whole does, and every plan asks this of every object.
func mentions(o *manifests.Object, annotation string) bool {
	return bytes.Contains(o.JSON, []byte(annotation[strings.IndexByte(annotation, '/'):]))
}

// payload is what is sent to the API server: the manifest with the namespace that
// it has in the cluster and the mark of its owner.
func payload(o *manifests.Object, id inventory.ID, owner string) ([]byte, error) {
	if data, ok := spliced(o.JSON, id.Namespace, owner); ok {
		return data, nil
	}
	u, err := o.Unstructured()
	if err != nil {
		return nil, err
	}
	return marked(u, id, owner)
}

// marked is payload of an object that is already decoded. It changes it.
func marked(u *unstructured.Unstructured, id inventory.ID, owner string) ([]byte, error) {
	if id.Namespace == "" {
		unstructured.RemoveNestedField(u.Object, "metadata", "namespace")
	} else {
		u.SetNamespace(id.Namespace)
	}
	metadata, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("mark %s as owned: %w", describe(id), errShape)
	}
	// Not SetAnnotations, which would drop what is no string: that is for the API
	// server to refuse.
	annotations, ok := metadata["annotations"].(map[string]any)
	if !ok {
		if metadata["annotations"] != nil {
			return nil, fmt.Errorf("mark %s as owned: %w", describe(id), errShape)
		}
		annotations = map[string]any{}
		metadata["annotations"] = annotations
	}
	annotations[OwnerAnnotation] = owner
	data, err := json.Marshal(u.Object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", describe(id), err)
	}
	return data, nil
}

// unservedDefined picks, of the kinds that are not served, those that a CRD among
// the objects defines.
func unservedDefined(objects []manifests.Object, unserved map[schema.GroupVersionKind]struct{}) []schema.GroupVersionKind {
	if len(unserved) == 0 {
		return nil
	}
	defined := map[schema.GroupKind]struct{}{}
	for i := range objects {
		if !isDefinition(objects[i].ID) {
			continue
		}
		u, err := objects[i].Unstructured()
		if err != nil {
			continue // applying it will tell
		}
		if gk, ok := object.GetCRDGroupKind(u); ok {
			defined[gk] = struct{}{}
		}
	}
	var out []schema.GroupVersionKind
	for gvk := range unserved {
		if _, ok := defined[gvk.GroupKind()]; ok {
			out = append(out, gvk)
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return out
}

package contender

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kas-agentk/kas/bench/objects"
)

// decode makes what cli-utils and Flux take of a set.
func decode(set []objects.Object) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, len(set))
	for i := range set {
		out[i] = &unstructured.Unstructured{}
		if err := out[i].UnmarshalJSON(set[i].JSON); err != nil {
			return nil, fmt.Errorf("object %s: %w", set[i].Name, err)
		}
	}
	return out, nil
}

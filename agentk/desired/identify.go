package desired

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/kas-agentk/kas/inventory"
)

var errNoIdentity = errors.New("apiVersion, kind or metadata.name is missing")

// identify reads who an object is and leaves the rest of it undecoded.
func identify(data []byte) (inventory.ID, error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return inventory.ID{}, fmt.Errorf("decode: %w", err)
	}
	if head.APIVersion == "" || head.Kind == "" || head.Metadata.Name == "" {
		return inventory.ID{}, errNoIdentity
	}
	gv, err := schema.ParseGroupVersion(head.APIVersion)
	if err != nil {
		return inventory.ID{}, fmt.Errorf("apiVersion: %w", err)
	}
	return inventory.ID{
		GroupKind: schema.GroupKind{Group: gv.Group, Kind: head.Kind},
		Namespace: head.Metadata.Namespace,
		Name:      head.Metadata.Name,
	}, nil
}

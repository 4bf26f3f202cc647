package gitops

import (
	"bytes"
	"slices"

	"github.com/kas-agentk/kas/manifests"
)

// localConfig is the annotation of objects that are meant for tools that read the
// repository, and never for a cluster.
const localConfig = "config.kubernetes.io/local-config"

// Applicable returns what of a commit is meant for the cluster: all but the objects
// that have the annotation config.kubernetes.io/local-config. As for cli-utils, its
// value does not matter, and an object that gets it has left the repository.
func Applicable(d Desired) Desired {
	if !slices.ContainsFunc(d.Set.Objects, isLocal) {
		return d
	}
	objects := make([]manifests.Object, 0, len(d.Set.Objects))
	for i := range d.Set.Objects {
		if !isLocal(d.Set.Objects[i]) {
			objects = append(objects, d.Set.Objects[i])
		}
	}
	d.Set.Objects = objects
	return d
}

func isLocal(o manifests.Object) bool {
	if !bytes.Contains(o.JSON, []byte(localConfig)) {
		return false
	}
	u, err := o.Unstructured()
	if err != nil {
		return false // applying it will tell
	}
	metadata, _ := u.Object["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	_, local := annotations[localConfig]
	return local
}

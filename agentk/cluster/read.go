package cluster

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/inventory"
)

// Read implements gitops.Cluster. What is cached of ConfigMaps and Secrets lacks their
// data, so the API server is asked.
func (c *Cluster) Read(ctx context.Context, id inventory.ID, version string) (*unstructured.Unstructured, error) {
	mapping, err := c.resolver.resolve(ctx, id.GroupKind.WithVersion(version))
	if err != nil {
		return nil, explain(err)
	}
	return objectOf(ctx, id, c.resolver.client.Get().AbsPath(pathOf(mapping, id)...))
}

// pathOf is where the API server has an object.
func pathOf(mapping *meta.RESTMapping, id inventory.ID) []string {
	path := []string{"apis", mapping.Resource.Group, mapping.Resource.Version}
	if mapping.Resource.Group == "" {
		path = []string{"api", mapping.Resource.Version}
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		path = append(path, "namespaces", id.Namespace)
	}
	return append(path, mapping.Resource.Resource, id.Name)
}

// objectOf sends a request whose answer is a whole object.
func objectOf(ctx context.Context, id inventory.ID, request *rest.Request) (*unstructured.Unstructured, error) {
	result := request.SetHeader("Accept", "application/json").Do(ctx)
	if err := result.Error(); err != nil { // unlike Raw's, the API server's own words
		return nil, explain(err)
	}
	data, err := result.Raw()
	if err != nil {
		return nil, explain(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("decode %s: %w", id, err)
	}
	return u, nil
}

package cluster

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// Apply implements gitops.Cluster. Only the metadata of the result is asked for: it
// tells whose fields are whose, and spares the API server and us the rest.
func (c *Cluster) Apply(ctx context.Context, a gitops.Apply) (gitops.Live, error) {
	gvk := a.ID.GroupKind.WithVersion(a.Version)
	client, err := c.client(ctx, gvk, a.ID.Namespace)
	if err != nil {
		return gitops.Live{}, err
	}
	force := true
	opts := metav1.PatchOptions{FieldManager: FieldManager, Force: &force, DryRun: dryRun(a.DryRun)}
	end := c.recent.begin(a.ID)
	defer end()
	got, err := c.patch(ctx, client, a, opts)
	if err != nil {
		if unknownResource(err) {
			c.resolver.forget(gvk.GroupVersion())
		}
		return gitops.Live{}, explain(err)
	}
	live := gitops.Live{
		UID: got.UID, ResourceVersion: got.ResourceVersion, Owner: got.Annotations[gitops.OwnerAnnotation],
		Ownership: inventory.OwnershipOf(got.ManagedFields, FieldManager),
		Stays:     gitops.MarkedToStay(func(key string) string { return got.Annotations[key] }),
	}
	if !a.DryRun {
		c.remember(a.ID, live)
	}
	return live, nil
}

// remember shows the result of a request until the cache has caught up.
func (c *Cluster) remember(id inventory.ID, live gitops.Live) {
	c.mu.Lock()
	gr, ok := c.resources[id.GroupKind]
	c.mu.Unlock()
	if !ok {
		return
	}
	c.recent.put(id, live)
	// The event may have come before the answer.
	if cached, found := c.cfg.Cache.Get(gr, id.Namespace, id.Name); found {
		c.recent.seen(id, cached.ResourceVersion)
	}
}

func dryRun(on bool) []string {
	if on {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// client for the objects of a kind.
func (c *Cluster) client(ctx context.Context, gvk schema.GroupVersionKind, namespace string) (metadata.ResourceInterface, error) {
	mapping, err := c.resolver.resolve(ctx, gvk)
	if err != nil {
		return nil, explain(err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return c.metadata.Resource(mapping.Resource), nil
	}
	return c.metadata.Resource(mapping.Resource).Namespace(namespace), nil
}

package cluster

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

var _ gitops.Previewer = (*Cluster)(nil)

// Peek implements gitops.Previewer.
func (c *Cluster) Peek(ctx context.Context, id string) (*inventory.Inventory, error) {
	return inventory.Load(ctx, c.storage, id)
}

// Preview implements gitops.Previewer.
func (c *Cluster) Preview(ctx context.Context, a gitops.Apply) (before, after *unstructured.Unstructured, err error) {
	mapping, err := c.resolver.resolve(ctx, a.ID.GroupKind.WithVersion(a.Version))
	if err != nil {
		return nil, nil, explain(err)
	}
	path := pathOf(mapping, a.ID)
	before, err = objectOf(ctx, a.ID, c.resolver.client.Get().AbsPath(path...))
	if apierrors.IsNotFound(err) {
		before, err = nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	data := a.JSON
	if len(a.Yield) > 0 && before != nil {
		client, err := c.client(ctx, mapping.GroupVersionKind, a.ID.Namespace)
		if err != nil {
			return nil, nil, err
		}
		if data, err = yielding(ctx, client, a); err != nil {
			return nil, nil, explain(err)
		}
	}
	after, err = objectOf(ctx, a.ID, c.resolver.client.Patch(types.ApplyPatchType).AbsPath(path...).
		Param("fieldManager", FieldManager).Param("force", "true").Param("dryRun", metav1.DryRunAll).Body(data))
	return before, after, err
}

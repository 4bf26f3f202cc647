package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
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
	got, err := client.Patch(ctx, a.ID.Name, types.ApplyPatchType, a.JSON, opts)
	if err != nil {
		if unknownResource(err) {
			c.resolver.forget(gvk.GroupVersion())
		}
		return gitops.Live{}, explain(err)
	}
	live := gitops.Live{
		UID: got.UID, ResourceVersion: got.ResourceVersion, Owner: got.Annotations[gitops.OwnerAnnotation],
		Ownership: inventory.OwnershipOf(got.ManagedFields, FieldManager),
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
	if obj, _, found := c.cfg.Cache.Get(gr, id.Namespace, id.Name); found {
		c.recent.seen(id, obj.GetResourceVersion())
	}
}

// Remove implements gitops.Cluster.
func (c *Cluster) Remove(ctx context.Context, r gitops.Remove) error {
	client, err := c.client(ctx, r.ID.GroupKind.WithVersion(""), r.ID.Namespace)
	if err != nil {
		return err
	}
	if r.Detach {
		return c.detach(ctx, client, r)
	}
	opts := metav1.DeleteOptions{
		DryRun:        dryRun(r.DryRun),
		Preconditions: &metav1.Preconditions{UID: &r.UID},
	}
	if r.Propagation != "" {
		p := metav1.DeletionPropagation(r.Propagation)
		opts.PropagationPolicy = &p
	}
	err = client.Delete(ctx, r.ID.Name, opts)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another object by now
	}
	return explain(err)
}

// detach removes the mark of the owning inventory and nothing else.
func (c *Cluster) detach(ctx context.Context, client metadata.ResourceInterface, r gitops.Remove) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         r.UID,
		"annotations": map[string]any{gitops.OwnerAnnotation: nil},
	}})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	opts := metav1.PatchOptions{FieldManager: FieldManager, DryRun: dryRun(r.DryRun)}
	got, err := client.Patch(ctx, r.ID.Name, types.MergePatchType, patch, opts)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil && !r.DryRun {
		c.remember(r.ID, gitops.Live{
			UID: got.UID, ResourceVersion: got.ResourceVersion,
			Ownership: inventory.OwnershipOf(got.ManagedFields, FieldManager),
		})
	}
	return explain(err)
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

// explain tells an error of the API server, which is passed on as it is, from one
// that kept it from being asked.
func explain(err error) error {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status), errors.Is(err, gitops.ErrUnavailable), errors.Is(err, gitops.ErrNotServed),
		errors.Is(err, context.Canceled):
		return err
	default:
		return fmt.Errorf("%w: %w", gitops.ErrUnavailable, err)
	}
}

// unknownResource tells a path that the API server does not serve from an object
// that is not there.
func unknownResource(err error) bool {
	if !apierrors.IsNotFound(err) {
		return false
	}
	_, unexpected := apierrors.StatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
	return unexpected
}

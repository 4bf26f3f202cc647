package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// removeTries is how often a removal is tried of an object that changes all the
// while.
const removeTries = 10

// errMarkedToStay is for an object that was about to be deleted.
var errMarkedToStay = errors.New("it has just been marked to survive its removal from the repository")

// Remove implements gitops.Cluster. What is deleted is what was seen: if the object
// has changed since, it is looked at again.
func (c *Cluster) Remove(ctx context.Context, r gitops.Remove) error {
	client, err := c.client(ctx, r.ID.GroupKind.WithVersion(""), r.ID.Namespace)
	if err != nil {
		return err
	}
	for range removeTries {
		if r.Detach {
			err = c.detach(ctx, client, r)
		} else {
			err = c.delete(ctx, client, r)
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return explain(err)
		}
		now, err := client.Get(ctx, r.ID.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return explain(err)
		case now.UID != r.UID:
			return nil // another object of that name
		case now.Annotations[gitops.OwnerAnnotation] != r.Owner:
			return fmt.Errorf("remove %s %s: %w", r.ID.GroupKind.Kind, r.ID.Name, gitops.ErrTakenOver)
		case !r.Detach && now.DeletionTimestamp != nil:
			return nil // which of a namespace cannot even be asked for again
		case !r.Detach && gitops.MarkedToStay(func(key string) string { return now.Annotations[key] }):
			return errMarkedToStay
		}
		r.ResourceVersion = now.ResourceVersion
	}
	return explain(err)
}

// delete asks for the object to be deleted as it was seen.
func (c *Cluster) delete(ctx context.Context, client metadata.ResourceInterface, r gitops.Remove) error {
	opts := metav1.DeleteOptions{
		DryRun:        dryRun(r.DryRun),
		Preconditions: &metav1.Preconditions{UID: &r.UID},
	}
	if r.ResourceVersion != "" {
		opts.Preconditions.ResourceVersion = &r.ResourceVersion
	}
	if r.Propagation != "" {
		p := metav1.DeletionPropagation(r.Propagation)
		opts.PropagationPolicy = &p
	}
	return client.Delete(ctx, r.ID.Name, opts) //nolint:wrapcheck // Remove does
}

// detach removes the mark of the owning inventory and nothing else.
func (c *Cluster) detach(ctx context.Context, client metadata.ResourceInterface, r gitops.Remove) error {
	meta := map[string]any{
		"uid":         r.UID,
		"annotations": map[string]any{gitops.OwnerAnnotation: nil},
	}
	if r.ResourceVersion != "" {
		meta["resourceVersion"] = r.ResourceVersion
	}
	patch, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	opts := metav1.PatchOptions{FieldManager: FieldManager, DryRun: dryRun(r.DryRun)}
	end := c.recent.begin(r.ID)
	defer end()
	got, err := client.Patch(ctx, r.ID.Name, types.MergePatchType, patch, opts)
	if err != nil {
		return err //nolint:wrapcheck // Remove does
	}
	if !r.DryRun {
		c.remember(r.ID, gitops.Live{
			UID: got.UID, ResourceVersion: got.ResourceVersion,
			Ownership: inventory.OwnershipOf(got.ManagedFields, FieldManager),
		})
	}
	return nil
}

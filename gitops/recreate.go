package gitops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

const (
	// OnImmutableAnnotation of a manifest with the value "recreate" allows to delete
	// the object and to create it anew where a change needs that.
	OnImmutableAnnotation = "agent.gitlab.com/on-immutable"

	onImmutableRecreate = "recreate"

	// recreateTimeout is how long the deletion before that may take.
	recreateTimeout = 30 * time.Second
)

var (
	errNotGone   = errors.New("it is not gone yet")
	errNotKind   = errors.New("objects of this kind are not deleted for that")
	errAnnotated = errors.New("the only value of annotation " + OnImmutableAnnotation + " is " + onImmutableRecreate)
	errAllow     = errors.New("set annotation " + OnImmutableAnnotation + ": " + onImmutableRecreate +
		" on the manifest to have the object deleted and created anew")
)

// mayRecreate returns nil if the manifest allows it.
func mayRecreate(o *manifests.Object) error {
	if o.ID.GroupKind == namespaceKind || isDefinition(o.ID) {
		return errNotKind // all that they hold would go
	}
	if !mentions(o, OnImmutableAnnotation) {
		return errAllow
	}
	u, err := o.Unstructured()
	if err != nil {
		return err
	}
	switch annotation(u, OnImmutableAnnotation) {
	case onImmutableRecreate:
		return nil
	case "":
		return errAllow
	default:
		return errAnnotated
	}
}

// recreate deletes an object and applies it anew, in a worker. Should the process die
// between the two, the object is on the inventory, and the next run creates it.
func (r *run) recreate(ctx context.Context, s *Step, a application, refused *ImmutableError) (Live, inventory.Hash, error) {
	why := refused.because()
	if err := mayRecreate(s.Object); err != nil {
		return Live{}, inventory.Hash{}, fmt.Errorf("%s: %w; the API server says: %w", why, err, refused)
	}
	if a.dryRun {
		s.note = "it would be deleted and created anew, because " + why
		return s.Before, inventory.Hash{}, nil
	}
	if err := r.replace(ctx, s); err != nil {
		return Live{}, inventory.Hash{}, fmt.Errorf("delete it to create it anew, because %s: %w", why, err)
	}
	s.note = "recreated, because " + why
	request, cancel := detach(ctx)
	defer cancel()
	live, digest, err := apply(request, r.cluster, a)
	if err != nil {
		return live, digest, fmt.Errorf("deleted to be created anew, because %s: %w", why, err)
	}
	return live, digest, nil
}

// replace deletes the live object and waits until it is gone.
func (r *run) replace(ctx context.Context, s *Step) error {
	id := s.Status.ID
	live, exists := r.cluster.Live(id)
	if !exists {
		return nil
	}
	propagation := r.project.Propagation
	if propagation != "Foreground" {
		// Orphans would stand in the way of the new object.
		propagation = "Background"
	}
	request, cancel := detach(ctx)
	defer cancel()
	err := r.cluster.Remove(request, Remove{
		ID: id, UID: live.UID, ResourceVersion: live.ResourceVersion, Owner: live.Owner, Propagation: propagation,
	})
	if err != nil {
		return err
	}
	s.removed = true
	gone := false
	err = r.await(ctx, []schema.GroupKind{id.GroupKind}, recreateTimeout, 0, func() (bool, error) {
		now, exists := r.cluster.Live(id)
		gone = !exists || now.UID != live.UID
		return gone, nil
	})
	if err != nil || gone {
		return err
	}
	if now, exists := r.cluster.Live(id); exists {
		if health, message := r.project.health(id, now, true); health == HealthTerminating {
			return fmt.Errorf("%w: %s", errNotGone, message)
		}
	}
	return errNotGone
}

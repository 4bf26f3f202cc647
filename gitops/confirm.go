package gitops

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/inventory"
)

// confirm asks the API server for objects that nobody has seen, before the inventory
// forgets them, and returns those that exist all the same, or of which that cannot be
// told. After a start, what is live may come from an API server that is behind; and the
// request of a process that has died may have taken effect since. They stay on the
// inventory, for a later run.
func (r *run) confirm(ctx context.Context, unseen []inventory.ID) (exists map[inventory.ID]bool, err error) {
	found := make([]bool, len(unseen))
	var g errgroup.Group
	g.SetLimit(r.project.parallel())
	for i, id := range unseen {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			u, err := r.cluster.Read(ctx, id, "")
			switch {
			case errors.Is(err, ErrUnavailable):
				return fmt.Errorf("ask whether %s is gone: %w", describe(id), err)
			case errors.Is(err, ErrNotFound), errors.Is(err, ErrNoNamespace): // or it is the namespace itself
			case err != nil:
				found[i] = true
			default:
				owner := annotation(u, OwnerAnnotation)
				found[i] = owner == "" || owner == r.inv.ID()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	exists = map[inventory.ID]bool{}
	for i, id := range unseen {
		if found[i] {
			exists[id] = true
			r.result.Waiting++
		}
	}
	return exists, nil
}

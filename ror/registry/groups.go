package registry

import (
	"context"
	"errors"
	"path"
	"slices"
)

// Group is a namespace that no user owns.
type Group struct {
	ID       int64
	FullPath string
}

// GroupsAbove lists the groups that a project is in, from the root on.
func (r *Registry) GroupsAbove(ctx context.Context, p Project) ([]Group, error) {
	var groups []Group
	for fullPath := p.Namespace(); fullPath != "."; fullPath = path.Dir(fullPath) {
		n, err := findNamespace(ctx, r.read, fullPath)
		if errors.Is(err, ErrNotFound) {
			continue // an older version did not create those above
		}
		if err != nil {
			return nil, err
		}
		if n.owner != 0 {
			return nil, nil // a user's own, and what is below
		}
		groups = append(groups, Group{n.id, n.fullPath})
	}
	slices.Reverse(groups)
	return groups, nil
}

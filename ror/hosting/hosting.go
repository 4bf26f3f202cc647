// Package hosting makes projects: the entry in the registry and the repository in
// Gitaly, both or neither.
package hosting

import (
	"context"
	"errors"
	"fmt"

	"github.com/kas-agentk/kas/ror/registry"
)

// ErrForbidden means that the user may not create projects there.
var ErrForbidden = errors.New("you are not allowed to create projects in this namespace")

// Repositories makes repositories.
type Repositories interface {
	// Create makes a project's repository; one that is there already is no error.
	Create(ctx context.Context, p registry.Project) error
}

// Projects makes projects.
type Projects struct {
	registry     *registry.Registry
	repositories Repositories
}

// NewProjects returns a maker of projects.
func NewProjects(r *registry.Registry, repositories Repositories) *Projects {
	return &Projects{registry: r, repositories: repositories}
}

// Create makes a project for a user, in the user's own namespace where none is
// named. Errors: ErrForbidden, those of registry.CreateProject, those of the
// repositories.
func (p *Projects) Create(ctx context.Context, u registry.User, n registry.NewProject) (registry.Project, error) {
	n.CreatorID = u.ID
	if n.Namespace == "" {
		n.Namespace = u.Username
	}
	if !p.registry.MayCreateIn(u, n.Namespace) {
		return registry.Project{}, ErrForbidden
	}
	project, err := p.registry.CreateProject(ctx, n)
	if err != nil {
		return registry.Project{}, fmt.Errorf("create project: %w", err)
	}
	if err := p.repositories.Create(ctx, project); err != nil {
		// The client may be gone, the half-made project must go all the same.
		undo := p.registry.DeleteProject(context.WithoutCancel(ctx), project.ID)
		return registry.Project{}, errors.Join(fmt.Errorf("create project: %w", err), undo)
	}
	return project, nil
}

package registry

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Visibility says who may see a project without being its member.
type Visibility string

// Visibilities, as GitLab names them.
const (
	Private  Visibility = "private"
	Internal Visibility = "internal" // everyone who signed in
	Public   Visibility = "public"   // everyone
)

// DefaultBranch of a project whose creator names none.
const DefaultBranch = "main"

// Project is a repository and who may use it.
type Project struct {
	ID int64
	// FullPath is "<namespace>/<path>".
	FullPath      string
	Path          string
	Name          string
	Description   string
	Visibility    Visibility
	DefaultBranch string
	CreatorID     int64
	NamespaceID   int64
	// OwnerID is the user in whose own namespace the project is; zero: none.
	OwnerID   int64
	CreatedAt time.Time
}

// Namespace is the full path without the last part.
func (p Project) Namespace() string { return path.Dir(p.FullPath) }

// TopNamespace is the first part of the full path.
func (p Project) TopNamespace() string {
	top, _, _ := strings.Cut(p.FullPath, "/")
	return top
}

// GLRepository is how Gitaly and its hooks name the repository.
func (p Project) GLRepository() string { return glRepositoryPrefix + strconv.FormatInt(p.ID, 10) }

// RelativePath is where the repository lies in its storage: GitLab's hashed storage,
// so that renaming a project moves nothing.
func (p Project) RelativePath() string {
	sum := sha256.Sum256([]byte(strconv.FormatInt(p.ID, 10)))
	hash := hex.EncodeToString(sum[:])
	return path.Join("@hashed", hash[:2], hash[2:4], hash+".git")
}

const glRepositoryPrefix = "project-"

const projectColumns = `projects.id, projects.full_path, projects.path, projects.name, projects.description, projects.visibility,
	projects.default_branch, projects.creator_id, projects.namespace_id, coalesce(namespaces.owner_id, 0), projects.created_at`

const projectTables = "projects JOIN namespaces ON namespaces.id = projects.namespace_id"

func (p *Project) fields(created *int64) []any {
	return []any{
		&p.ID, &p.FullPath, &p.Path, &p.Name, &p.Description, &p.Visibility,
		&p.DefaultBranch, &p.CreatorID, &p.NamespaceID, &p.OwnerID, created,
	}
}

func scanProject(s scanner) (Project, error) {
	var p Project
	var created int64
	err := s.Scan(p.fields(&created)...)
	p.CreatedAt = toTime(created)
	return p, err
}

// NewProject is what CreateProject needs.
type NewProject struct {
	// Namespace is a full path. One that is missing is created.
	Namespace string
	// Path is the last part of the full path.
	Path string
	// Name for people. Default: Path.
	Name        string
	Description string
	// Visibility. Default: private.
	Visibility Visibility
	// DefaultBranch. Default: DefaultBranch.
	DefaultBranch string
	CreatorID     int64
}

// CreateProject adds a project, and its namespace where that is missing. Whether
// the creator may is the caller's to ask (see MayCreateIn).
func (r *Registry) CreateProject(ctx context.Context, n NewProject) (Project, error) {
	if err := n.complete(); err != nil {
		return Project{}, err
	}
	p := Project{
		FullPath: n.Namespace + "/" + n.Path, Path: n.Path, Name: n.Name, Description: n.Description,
		Visibility: n.Visibility, DefaultBranch: n.DefaultBranch, CreatorID: n.CreatorID, CreatedAt: toTime(r.now()),
	}
	err := r.tx(ctx, func(tx *sql.Tx) error {
		ns, err := findNamespace(ctx, tx, n.Namespace)
		if errors.Is(err, ErrNotFound) {
			ns, err = createNamespace(ctx, tx, n.Namespace, 0, p.CreatedAt)
		}
		if err != nil {
			return err
		}
		p.NamespaceID, p.OwnerID, p.FullPath = ns.id, ns.owner, ns.fullPath+"/"+n.Path
		if _, err := findNamespace(ctx, tx, p.FullPath); !errors.Is(err, ErrNotFound) {
			return errors.Join(fmt.Errorf("project %s: %w", p.FullPath, ErrConflict), err)
		}
		p.ID, err = insert(ctx, tx, "project "+p.FullPath,
			`INSERT INTO projects (namespace_id, path, full_path, name, description, visibility, default_branch, creator_id, created_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			p.NamespaceID, p.Path, p.FullPath, p.Name, p.Description, p.Visibility, p.DefaultBranch, p.CreatorID, p.CreatedAt.UnixMilli())
		return err
	})
	return p, err
}

// complete fills in defaults and checks the rules.
func (n *NewProject) complete() error {
	if n.Name == "" {
		n.Name = n.Path
	}
	if n.Visibility == "" {
		n.Visibility = Private
	}
	if n.DefaultBranch == "" {
		n.DefaultBranch = DefaultBranch
	}
	if err := validateName(n.Name); err != nil {
		return err
	}
	if len(n.Description) > 2000 {
		return &InvalidError{"description", "is too long (maximum is 2000 characters)"}
	}
	if !slices.Contains([]Visibility{Private, Internal, Public}, n.Visibility) {
		return &InvalidError{"visibility", "does not have a valid value: private, internal or public"}
	}
	if !validBranch(n.DefaultBranch) {
		return &InvalidError{"default_branch", "is not a valid name of a branch"}
	}
	if err := validatePathPart("path", n.Path); err != nil {
		return err
	}
	return validateNamespace("namespace_path", n.Namespace)
}

// validBranch is stricter than Git and needs no Git.
func validBranch(s string) bool {
	return len(s) <= 255 && pathPart.MatchString(strings.ReplaceAll(s, "/", "_")) &&
		path.Clean(s) == s && !strings.Contains(s, "..") && !strings.HasSuffix(s, ".lock") && !strings.HasSuffix(s, ".")
}

// Project returns a project by number.
func (r *Registry) Project(ctx context.Context, id int64) (Project, error) {
	return one(ctx, r.read, fmt.Sprintf("project %d", id), scanProject,
		"SELECT "+projectColumns+" FROM "+projectTables+" WHERE projects.id = ?", id)
}

// FindProject returns a project by its number or its full path.
func (r *Registry) FindProject(ctx context.Context, idOrPath string) (Project, error) {
	if id, err := strconv.ParseInt(idOrPath, 10, 64); err == nil {
		return r.Project(ctx, id)
	}
	return one(ctx, r.read, "project "+idOrPath, scanProject,
		"SELECT "+projectColumns+" FROM "+projectTables+" WHERE projects.full_path = ?", idOrPath)
}

// ProjectByGLRepository returns a project by the name that Gitaly knows.
func (r *Registry) ProjectByGLRepository(ctx context.Context, name string) (Project, error) {
	id, err := strconv.ParseInt(strings.TrimPrefix(name, glRepositoryPrefix), 10, 64)
	if err != nil || !strings.HasPrefix(name, glRepositoryPrefix) {
		return Project{}, fmt.Errorf("repository %q: %w", name, ErrNotFound)
	}
	return r.Project(ctx, id)
}

// Projects lists the projects that a user may see, by full path.
func (r *Registry) Projects(ctx context.Context, u *User) ([]Project, error) {
	query := "SELECT " + projectColumns + " FROM " + projectTables
	var args []any
	switch {
	case u == nil:
		query += " WHERE projects.visibility = 'public'"
	case !u.Admin:
		query += ` WHERE projects.visibility <> 'private' OR namespaces.owner_id = ?
			OR EXISTS (SELECT 1 FROM members WHERE members.project_id = projects.id AND members.user_id = ?)`
		args = append(args, u.ID, u.ID)
	}
	return many(ctx, r.read, "projects", scanProject, query+fmt.Sprintf(" ORDER BY projects.full_path LIMIT %d", MaxList), args...)
}

// DeleteProject forgets a project and everything that hangs on it.
func (r *Registry) DeleteProject(ctx context.Context, id int64) error {
	return r.execOne(ctx, fmt.Sprintf("delete project %d", id), "DELETE FROM projects WHERE id = ?", id)
}

type namespace struct {
	id       int64
	fullPath string
	owner    int64 // zero: none
}

func findNamespace(ctx context.Context, q queryer, fullPath string) (namespace, error) {
	return one(ctx, q, "namespace "+fullPath, func(s scanner) (namespace, error) {
		var n namespace
		err := s.Scan(&n.id, &n.fullPath, &n.owner)
		return n, err
	}, "SELECT id, full_path, coalesce(owner_id, 0) FROM namespaces WHERE full_path = ?", fullPath)
}

// createNamespace adds a namespace, and those above it where they are missing.
func createNamespace(ctx context.Context, tx *sql.Tx, fullPath string, owner int64, now time.Time) (namespace, error) {
	if parent := path.Dir(fullPath); parent != "." {
		_, err := findNamespace(ctx, tx, parent)
		if errors.Is(err, ErrNotFound) {
			_, err = createNamespace(ctx, tx, parent, 0, now)
		}
		if err != nil {
			return namespace{}, err
		}
	}
	var taken int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM projects WHERE full_path = ?", fullPath).Scan(&taken)
	if err != nil {
		return namespace{}, fmt.Errorf("look for namespace %s: %w", fullPath, err)
	}
	if taken > 0 {
		return namespace{}, fmt.Errorf("namespace %s: %w by a project", fullPath, ErrConflict)
	}
	ownerID := sql.NullInt64{Int64: owner, Valid: owner != 0}
	id, err := insert(ctx, tx, "namespace "+fullPath,
		"INSERT INTO namespaces (full_path, owner_id, created_at) VALUES (?, ?, ?)", fullPath, ownerID, now.UnixMilli())
	return namespace{id: id, fullPath: fullPath, owner: owner}, err
}

func validateNamespace(field, fullPath string) error {
	parts := strings.Split(fullPath, "/")
	if len(parts) > 20 {
		return &InvalidError{field, "is nested too deep (maximum is 20 parts)"}
	}
	for _, part := range parts {
		if err := validatePathPart(field, part); err != nil {
			return err
		}
	}
	return validateNamespaceRoot(field, parts[0])
}

// validateNamespaceRoot keeps names free that mean something in RoR's own URLs.
func validateNamespaceRoot(field, part string) error {
	if strings.EqualFold(part, "api") {
		return &InvalidError{field, part + " is a reserved name"}
	}
	return nil
}

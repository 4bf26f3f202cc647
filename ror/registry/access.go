package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AccessLevel is what a member may do: GitLab's numbers.
type AccessLevel int

// Access levels, each with the rights of those before.
const (
	NoAccess   AccessLevel = 0
	Guest      AccessLevel = 10
	Reporter   AccessLevel = 20
	Developer  AccessLevel = 30
	Maintainer AccessLevel = 40
	Owner      AccessLevel = 50
)

// Access is what one user may do with one project.
type Access struct {
	// Level by membership, ownership or office; what visibility adds is not in it.
	Level      AccessLevel
	visibility Visibility
	signedIn   bool
}

func (a Access) open() bool {
	return a.visibility == Public || (a.visibility == Internal && a.signedIn)
}

// SignedIn tells whether there is a user at all.
func (a Access) SignedIn() bool { return a.signedIn }

// See tells whether the user may know that the project exists.
func (a Access) See() bool { return a.open() || a.Level >= Guest }

// ReadCode tells whether the user may clone and fetch.
func (a Access) ReadCode() bool { return a.open() || a.Level >= Reporter }

// Push tells whether the user may change the repository.
func (a Access) Push() bool { return a.Level >= Developer }

// ReadAgents tells whether the user may see the project's agents and sync statuses.
func (a Access) ReadAgents() bool { return a.Level >= Developer }

// Administer tells whether the user may manage agents, their tokens, and members.
func (a Access) Administer() bool { return a.Level >= Maintainer }

// Access tells what a user, or with nil anyone, may do with a project.
func (r *Registry) Access(ctx context.Context, u *User, p Project) (Access, error) {
	a := Access{visibility: p.Visibility, signedIn: u != nil}
	switch {
	case u == nil:
	case u.Admin || p.OwnerID == u.ID:
		a.Level = Owner
	default:
		err := r.read.QueryRowContext(ctx, "SELECT access_level FROM members WHERE project_id = ? AND user_id = ?", p.ID, u.ID).Scan(&a.Level)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return Access{}, fmt.Errorf("read access of user %d to project %d: %w", u.ID, p.ID, err)
		}
	}
	return a, nil
}

// MayCreateIn tells whether a user may create projects in a namespace: an admin in
// any, which need not exist, the others in their own.
func (r *Registry) MayCreateIn(u User, namespace string) bool {
	return u.Admin || strings.EqualFold(u.Username, namespace)
}

// AgentMayRead tells whether an agent may read a manifest project: its own
// configuration project, one that is open to every user, and one that the user who
// created the agent may read.
func (r *Registry) AgentMayRead(ctx context.Context, a Agent, p Project) (bool, error) {
	if p.ID == a.Project.ID || p.Visibility != Private {
		return true, nil
	}
	creator, err := r.User(ctx, a.CreatedBy)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	access, err := r.Access(ctx, &creator, p)
	return access.ReadCode(), err
}

// Member is a user's membership in a project.
type Member struct {
	User      User
	Level     AccessLevel
	CreatedAt time.Time
}

// SetMember makes a user a member of a project, or changes the level.
func (r *Registry) SetMember(ctx context.Context, projectID, userID int64, level AccessLevel) (Member, error) {
	if !slices.Contains([]AccessLevel{Guest, Reporter, Developer, Maintainer, Owner}, level) {
		return Member{}, &InvalidError{"access_level", "is not included in the list: 10, 20, 30, 40, 50"}
	}
	u, err := r.User(ctx, userID)
	if err != nil {
		return Member{}, err
	}
	now := r.now()
	err = r.execOne(ctx, fmt.Sprintf("add user %d to project %d", userID, projectID),
		`INSERT INTO members (project_id, user_id, access_level, created_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (project_id, user_id) DO UPDATE SET access_level = excluded.access_level`,
		projectID, userID, level, now)
	return Member{User: u, Level: level, CreatedAt: toTime(now)}, err
}

// Members lists a project's members by username.
func (r *Registry) Members(ctx context.Context, projectID int64) ([]Member, error) {
	return many(ctx, r.read, "members", func(s scanner) (Member, error) {
		var m Member
		var userCreated, created int64
		err := s.Scan(&m.User.ID, &m.User.Username, &m.User.Name, &m.User.Admin, &userCreated, &m.Level, &created)
		m.User.CreatedAt, m.CreatedAt = toTime(userCreated), toTime(created)
		return m, err
	}, "SELECT "+userColumns+`, members.access_level, members.created_at FROM members JOIN users ON users.id = members.user_id
		WHERE members.project_id = ? ORDER BY users.username LIMIT ?`, projectID, MaxList)
}

// NamespaceAccess returns a namespace's number and what a user may do with all of
// its projects: an admin everything, the owner everything, others nothing.
func (r *Registry) NamespaceAccess(ctx context.Context, u User, fullPath string) (int64, AccessLevel, error) {
	n, err := findNamespace(ctx, r.read, fullPath)
	if err != nil {
		return 0, NoAccess, err
	}
	if u.Admin || n.owner == u.ID {
		return n.id, Owner, nil
	}
	return n.id, NoAccess, nil
}

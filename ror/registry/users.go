package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// User is a person or a robot. A nil *User stands for someone who did not sign in.
type User struct {
	ID       int64
	Username string
	Name     string
	// Admin may do everything.
	Admin     bool
	CreatedAt time.Time
}

// NewUser is what CreateUser needs.
type NewUser struct {
	Username string
	// Name for people. Default: the username.
	Name string
	// Password of 8 to 72 bytes. Empty: the user cannot sign in with a password.
	Password string
	Admin    bool
}

const userColumns = "users.id, users.username, users.name, users.admin, users.created_at"

func scanUser(s scanner) (User, error) {
	var u User
	var created int64
	err := s.Scan(&u.ID, &u.Username, &u.Name, &u.Admin, &created)
	u.CreatedAt = toTime(created)
	return u, err
}

// CreateUser adds a user and the namespace of that name.
func (r *Registry) CreateUser(ctx context.Context, n NewUser) (User, error) {
	if err := validatePathPart("username", n.Username); err != nil {
		return User{}, err
	}
	if err := validateNamespaceRoot("username", n.Username); err != nil {
		return User{}, err
	}
	if n.Name == "" {
		n.Name = n.Username
	}
	if err := validateName(n.Name); err != nil {
		return User{}, err
	}
	var hash []byte
	if n.Password != "" {
		var err error
		if hash, err = r.passwords.hash(n.Password); err != nil {
			return User{}, err
		}
	}
	u := User{Username: n.Username, Name: n.Name, Admin: n.Admin, CreatedAt: toTime(r.now())}
	err := r.tx(ctx, func(tx *sql.Tx) error {
		var err error
		u.ID, err = insert(ctx, tx, "user "+n.Username,
			"INSERT INTO users (username, name, admin, password_hash, created_at) VALUES (?, ?, ?, ?, ?)",
			u.Username, u.Name, u.Admin, hash, u.CreatedAt.UnixMilli())
		if err != nil {
			return err
		}
		_, err = createNamespace(ctx, tx, u.Username, u.ID, u.CreatedAt)
		return err
	})
	return u, err
}

// User returns a user by number.
func (r *Registry) User(ctx context.Context, id int64) (User, error) {
	return one(ctx, r.read, fmt.Sprintf("user %d", id), scanUser, "SELECT "+userColumns+" FROM users WHERE id = ?", id)
}

// UserByName returns a user by username.
func (r *Registry) UserByName(ctx context.Context, username string) (User, error) {
	return one(ctx, r.read, "user "+username, scanUser, "SELECT "+userColumns+" FROM users WHERE username = ?", username)
}

// UserByPassword returns the user of that name and password, else ErrUnauthorized.
func (r *Registry) UserByPassword(ctx context.Context, username, password string) (User, error) {
	var hash []byte
	u, err := one(ctx, r.read, "user", func(s scanner) (User, error) {
		var u User
		var created int64
		err := s.Scan(&u.ID, &u.Username, &u.Name, &u.Admin, &created, &hash)
		u.CreatedAt = toTime(created)
		return u, err
	}, "SELECT "+userColumns+", password_hash FROM users WHERE username = ?", username)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return User{}, err
	}
	if err := r.passwords.check(ctx, hash, password, r.clock.Now()); err != nil {
		return User{}, err
	}
	return u, nil
}

// Scopes of personal access tokens, as GitLab names them.
const (
	ScopeAPI             = "api"
	ScopeReadAPI         = "read_api"
	ScopeReadRepository  = "read_repository"
	ScopeWriteRepository = "write_repository"
	ScopeK8sProxy        = "k8s_proxy"
)

var scopes = []string{ScopeAPI, ScopeReadAPI, ScopeReadRepository, ScopeWriteRepository, ScopeK8sProxy}

// PersonalToken is what is known of a personal access token: not the token.
type PersonalToken struct {
	ID        int64
	UserID    int64
	Name      string
	Scopes    []string
	CreatedAt time.Time
	// LastUsedAt is exact to a minute; zero: never used.
	LastUsedAt time.Time
	// ExpiresAt is when it ends; zero: never.
	ExpiresAt time.Time
	Revoked   bool
}

// Allows tells whether the token has one of the scopes.
func (t PersonalToken) Allows(oneOf ...string) bool {
	return slices.ContainsFunc(oneOf, func(s string) bool { return slices.Contains(t.Scopes, s) })
}

// NewPersonalToken is what CreatePersonalToken needs.
type NewPersonalToken struct {
	UserID    int64
	Name      string
	Scopes    []string
	ExpiresAt time.Time
	// Token to store in place of a random one, where an operator chose it.
	Token string
}

// CreatePersonalToken returns what is known of the new token, and the token itself.
func (r *Registry) CreatePersonalToken(ctx context.Context, n NewPersonalToken) (PersonalToken, string, error) {
	if err := validateName(n.Name); err != nil {
		return PersonalToken{}, "", err
	}
	if len(n.Scopes) == 0 {
		return PersonalToken{}, "", &InvalidError{"scopes", "can't be blank"}
	}
	for _, s := range n.Scopes {
		if !slices.Contains(scopes, s) {
			return PersonalToken{}, "", &InvalidError{"scopes", "can only contain " + strings.Join(scopes, ", ")}
		}
	}
	token := n.Token
	if token == "" {
		token = newToken(prefixPersonal)
	}
	t := PersonalToken{UserID: n.UserID, Name: n.Name, Scopes: n.Scopes, CreatedAt: toTime(r.now()), ExpiresAt: n.ExpiresAt}
	err := r.tx(ctx, func(tx *sql.Tx) error {
		var err error
		t.ID, err = insert(ctx, tx, "personal access token",
			"INSERT INTO personal_access_tokens (user_id, name, scopes, token_hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
			t.UserID, t.Name, strings.Join(t.Scopes, " "), hashToken(token), t.CreatedAt.UnixMilli(), optionalMillis(t.ExpiresAt))
		return err
	})
	return t, token, err
}

// UserByToken returns the owner of a personal access token and what is known of
// the token; ErrUnauthorized for one that is unknown, revoked or expired.
func (r *Registry) UserByToken(ctx context.Context, token string) (User, PersonalToken, error) {
	var t PersonalToken
	u, err := one(ctx, r.read, "personal access token", func(s scanner) (User, error) {
		var u User
		var scopes string
		var userCreated, created int64
		var used, expires sql.NullInt64
		err := s.Scan(&u.ID, &u.Username, &u.Name, &u.Admin, &userCreated,
			&t.ID, &t.Name, &scopes, &created, &used, &expires, &t.Revoked)
		u.CreatedAt = toTime(userCreated)
		t.UserID, t.Scopes, t.CreatedAt = u.ID, strings.Fields(scopes), toTime(created)
		t.LastUsedAt, t.ExpiresAt = toOptionalTime(used), toOptionalTime(expires)
		return u, err
	}, "SELECT "+userColumns+`, t.id, t.name, t.scopes, t.created_at, t.last_used_at, t.expires_at, t.revoked
		FROM personal_access_tokens t JOIN users ON users.id = t.user_id WHERE t.token_hash = ?`, hashToken(token))
	if errors.Is(err, ErrNotFound) {
		return User{}, PersonalToken{}, ErrUnauthorized
	}
	if err != nil {
		return User{}, PersonalToken{}, err
	}
	now := r.clock.Now()
	if t.Revoked || (!t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt)) {
		return User{}, PersonalToken{}, ErrUnauthorized
	}
	return u, t, r.noteUse(ctx, notePersonalUse, t.ID, t.LastUsedAt, now)
}

// RevokePersonalToken ends a personal access token.
func (r *Registry) RevokePersonalToken(ctx context.Context, tokenID int64) error {
	return r.execOne(ctx, fmt.Sprintf("revoke personal access token %d", tokenID),
		"UPDATE personal_access_tokens SET revoked = 1 WHERE id = ? AND NOT revoked", tokenID)
}

// useResolution is how exactly a token's last use is known: it costs a write.
const useResolution = time.Minute

const (
	notePersonalUse = "UPDATE personal_access_tokens SET last_used_at = ? WHERE id = ?"
	noteAgentUse    = "UPDATE agent_tokens SET last_used_at = ? WHERE id = ?"
)

// noteUse writes down, by one of the statements above, that a token was used now,
// unless it was a moment ago.
func (r *Registry) noteUse(ctx context.Context, statement string, id int64, last, now time.Time) error {
	if now.Sub(last) < useResolution {
		return nil
	}
	if _, err := r.write.ExecContext(ctx, statement, now.UnixMilli(), id); err != nil {
		return fmt.Errorf("note the use of a token: %w", err)
	}
	return nil
}

func optionalMillis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// pathPart is one part of a path: GitLab's rule, without a leading dot.
var pathPart = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$`)

func validatePathPart(field, s string) error {
	lower := strings.ToLower(s)
	switch {
	case s == "":
		return &InvalidError{field, "can't be blank"}
	case len(s) > 255:
		return &InvalidError{field, "is too long (maximum is 255 characters)"}
	case !pathPart.MatchString(s), strings.HasSuffix(s, "."), strings.HasSuffix(lower, ".git"), strings.HasSuffix(lower, ".atom"):
		return &InvalidError{field, "can contain only letters, digits, '_', '-' and '.'. " +
			"Cannot start with '-' or '.', end in '.', '.git' or '.atom'"}
	}
	return nil
}

// validateName checks a name for people.
func validateName(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return &InvalidError{"name", "can't be blank"}
	case len(s) > 255:
		return &InvalidError{"name", "is too long (maximum is 255 characters)"}
	}
	return nil
}

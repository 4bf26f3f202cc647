package registry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/kas-agentk/kas/ror/registry"
)

func TestCreateUser_Rules(t *testing.T) {
	r, _ := open(t)
	addUser(t, r, "ada", false)
	for _, row := range []struct {
		name  string
		user  registry.NewUser
		field string // of the InvalidError; empty: a conflict
	}{
		{"a name needs a character", registry.NewUser{}, "username"},
		{"a name has no slash", registry.NewUser{Username: "a/b"}, "username"},
		{"a name does not look like a repository", registry.NewUser{Username: "a.git"}, "username"},
		{"a name does not hide the API", registry.NewUser{Username: "API"}, "username"},
		{"a short password is no password", registry.NewUser{Username: "bob", Password: "1234567"}, "password"},
		{"bcrypt would cut a long password", registry.NewUser{Username: "bob", Password: strings.Repeat("x", 73)}, "password"},
		{"a name is taken in any case of letters", registry.NewUser{Username: "ADA"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := r.CreateUser(t.Context(), row.user)
			if row.field == "" {
				require.ErrorIs(t, err, registry.ErrConflict)
				return
			}
			var invalid *registry.InvalidError
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, row.field, invalid.Field)
		})
	}
}

func TestUserByPassword_KnowsTheRightOneOnly(t *testing.T) {
	r, clock := open(t)
	ada := addUser(t, r, "ada", false)
	noPassword, err := r.CreateUser(t.Context(), registry.NewUser{Username: "robot"})
	require.NoError(t, err)

	for range 2 { // the second time it is remembered
		u, err := r.UserByPassword(t.Context(), "ada", "ada-password")
		require.NoError(t, err)
		require.Equal(t, ada, u)
		clock.SetTime(clock.Now().Add(time.Minute))
	}
	for _, wrong := range [][2]string{{"ada", "wrong-password"}, {"bob", "ada-password"}, {"ada", ""}, {noPassword.Username, ""}} {
		_, err := r.UserByPassword(t.Context(), wrong[0], wrong[1])
		require.ErrorIs(t, err, registry.ErrUnauthorized, "%v", wrong)
	}
}

func TestUserByToken_EndsWithExpiry(t *testing.T) {
	r, clock := open(t)
	ada := addUser(t, r, "ada", false)
	known, token, err := r.CreatePersonalToken(t.Context(), registry.NewPersonalToken{
		UserID: ada.ID, Name: "ci", Scopes: []string{registry.ScopeReadAPI}, ExpiresAt: clock.Now().Add(time.Hour),
	})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(token, "glpat-"))

	u, got, err := r.UserByToken(t.Context(), token)
	require.NoError(t, err)
	require.Equal(t, ada, u)
	require.Equal(t, known.ID, got.ID)
	require.True(t, got.Allows(registry.ScopeAPI, registry.ScopeReadAPI))
	require.False(t, got.Allows(registry.ScopeAPI))

	_, _, err = r.UserByToken(t.Context(), token+"x")
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	clock.SetTime(clock.Now().Add(time.Hour))
	_, _, err = r.UserByToken(t.Context(), token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
}

func TestSession_EndsWithSignOutAndTime(t *testing.T) {
	r, clock := open(t)
	ada := addUser(t, r, "ada", false)
	s, err := r.CreateSession(t.Context(), ada.ID)
	require.NoError(t, err)

	u, got, err := r.UserBySession(t.Context(), s.Token)
	require.NoError(t, err)
	require.Equal(t, ada, u)
	require.Equal(t, s.CSRF, got.CSRF)
	u, err = r.UserByKasKey(t.Context(), s.KasKey, s.CSRF)
	require.NoError(t, err)
	require.Equal(t, ada, u)

	_, err = r.UserByKasKey(t.Context(), s.KasKey, "forged")
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	_, _, err = r.UserBySession(t.Context(), s.KasKey)
	require.ErrorIs(t, err, registry.ErrUnauthorized, "what kas sees must not open the page")

	require.NoError(t, r.DeleteSession(t.Context(), s.Token))
	_, _, err = r.UserBySession(t.Context(), s.Token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)

	s, err = r.CreateSession(t.Context(), ada.ID)
	require.NoError(t, err)
	clock.SetTime(clock.Now().Add(registry.SessionLifetime))
	_, _, err = r.UserBySession(t.Context(), s.Token)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
}

func TestBootstrap_ChangesNothingTheSecondTime(t *testing.T) {
	r, _ := open(t)
	const token = "glpat-chosen-by-operator"
	require.NoError(t, r.Bootstrap(t.Context(), "root", "first-password", token))
	require.NoError(t, r.Bootstrap(t.Context(), "root", "other-password", token))

	u, err := r.UserByPassword(t.Context(), "root", "first-password")
	require.NoError(t, err)
	require.True(t, u.Admin)
	_, err = r.UserByPassword(t.Context(), "root", "other-password")
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	_, known, err := r.UserByToken(t.Context(), token)
	require.NoError(t, err)
	require.True(t, known.Allows(registry.ScopeAPI))
	require.Error(t, r.Bootstrap(t.Context(), "root", "first-password", "short"))
}

func TestOpen_KeepsWhatWasStoredAndNoSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ror.db")
	var secrets []string
	func() {
		r, err := registry.Open(t.Context(), registry.Config{Path: path, PasswordCost: bcrypt.MinCost})
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Close()) }()
		u := addUser(t, r, "ada", true)
		_, personal, err := r.CreatePersonalToken(t.Context(), registry.NewPersonalToken{UserID: u.ID, Name: "t", Scopes: []string{registry.ScopeAPI}})
		require.NoError(t, err)
		s, err := r.CreateSession(t.Context(), u.ID)
		require.NoError(t, err)
		p := addProject(t, r, u, "ada", "app", registry.Private)
		_, agentToken, err := r.CreateAgentToken(t.Context(), addAgent(t, r, p, "dev", u).ID, "t", "", u.ID)
		require.NoError(t, err)
		secrets = append(secrets, "ada-password", personal, s.Token, s.KasKey, s.CSRF, agentToken)
	}()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, secret := range secrets {
		require.NotContains(t, string(content), secret)
	}

	r, err := registry.Open(t.Context(), registry.Config{Path: path, PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	require.NoError(t, r.Ready(t.Context()))
	_, err = r.AgentByToken(t.Context(), secrets[5])
	require.NoError(t, err)
}

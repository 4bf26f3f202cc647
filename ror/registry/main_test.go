package registry_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/ror/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns an empty registry and the clock that it goes by.
func open(t *testing.T) (*registry.Registry, *clocktesting.FakePassiveClock) {
	t.Helper()
	r, clock, _ := openAt(t)
	return r, clock
}

// openAt is open, and says where the database is.
func openAt(t *testing.T) (*registry.Registry, *clocktesting.FakePassiveClock, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "new", "ror.db")
	clock := clocktesting.NewFakePassiveClock(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	r, err := registry.Open(t.Context(), registry.Config{
		Path: path, Clock: clock, PasswordCost: bcrypt.MinCost,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r, clock, path
}

func addUser(t *testing.T, r *registry.Registry, name string, admin bool) registry.User {
	t.Helper()
	u, err := r.CreateUser(t.Context(), registry.NewUser{Username: name, Password: name + "-password", Admin: admin})
	require.NoError(t, err)
	return u
}

func addProject(t *testing.T, r *registry.Registry, creator registry.User, namespace, path string, v registry.Visibility) registry.Project {
	t.Helper()
	p, err := r.CreateProject(t.Context(), registry.NewProject{Namespace: namespace, Path: path, Visibility: v, CreatorID: creator.ID})
	require.NoError(t, err)
	return p
}

func addAgent(t *testing.T, r *registry.Registry, p registry.Project, name string, creator registry.User) registry.Agent {
	t.Helper()
	a, err := r.CreateAgent(t.Context(), p, name, creator.ID)
	require.NoError(t, err)
	return a
}

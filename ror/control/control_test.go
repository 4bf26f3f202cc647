package control_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"

	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/fakekas"
	"github.com/kas-agentk/kas/ror/kasapi"
	"github.com/kas-agentk/kas/ror/registry"
)

func setUp(t *testing.T, refusal error) (*control.Control, *observer.ObservedLogs) {
	t.Helper()
	reg, err := registry.Open(t.Context(), registry.Config{Path: filepath.Join(t.TempDir(), "ror.db"), PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	core, logs := observer.New(zap.InfoLevel)
	return control.New(reg, &fakekas.Kas{Refusal: refusal}, zap.New(core)), logs
}

func target() control.Target {
	return control.Target{
		Agent:   registry.Agent{ID: 7, Name: "dev", Project: registry.Project{FullPath: "root/config"}},
		Project: "root/app", By: registry.User{ID: 3, Username: "ada"},
	}
}

func TestDo_KeepsARecord(t *testing.T) {
	const commit = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	c, logs := setUp(t, nil)
	require.NoError(t, c.Do(t.Context(), control.Command{Target: target(), Verb: control.ApprovePrune, Commit: commit}))
	require.Len(t, logs.All(), 1)
	require.Equal(t, map[string]any{
		"command": "approve_prune", "user": "ada", "user_id": int64(3), "agent_id": int64(7), "agent": "root/config:dev",
		"manifest_project": "root/app", "commit": commit, "done": true,
	}, logs.All()[0].ContextMap())

	c, logs = setUp(t, &kasapi.Error{Code: codes.Unavailable, Message: "agent dev is not connected"})
	require.EqualError(t, c.Do(t.Context(), control.Command{Target: target(), Verb: control.Suspend}), "agent dev is not connected")
	_, err := c.Diff(t.Context(), target(), control.Ref{Branch: "topic"})
	require.Error(t, err)
	require.Len(t, logs.All(), 2)
	require.Equal(t, false, logs.All()[0].ContextMap()["done"], "what was tried is in it, too")
	require.Equal(t, "agent dev is not connected", logs.All()[0].ContextMap()["error"])
	require.Equal(t, "topic", logs.All()[1].ContextMap()["branch"])
}

func TestDo_OnlyKnownCommandsReachKas(t *testing.T) {
	c, logs := setUp(t, nil)
	var failed *control.Error
	require.ErrorAs(t, c.Do(t.Context(), control.Command{Target: target(), Verb: "destroy"}), &failed)
	require.Equal(t, 404, failed.Status)
	require.Empty(t, logs.All())
}

func TestDo_GivesOtherErrorsBackAsTheyAre(t *testing.T) {
	broken := errors.New("broken")
	c, _ := setUp(t, broken)
	require.ErrorIs(t, c.Do(t.Context(), control.Command{Target: target(), Verb: control.Sync}), broken)
}

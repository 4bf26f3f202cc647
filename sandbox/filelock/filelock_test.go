package filelock_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/sandbox/filelock"
)

func TestTry_NamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := filelock.Try(path)
	require.NoError(t, err)
	_, err = filelock.Try(path)
	var taken *filelock.TakenError
	require.ErrorAs(t, err, &taken)
	require.Equal(t, os.Getpid(), taken.PID)
	unlock()
	unlock, err = filelock.Try(path)
	require.NoError(t, err)
	unlock()
}

func TestWait_TakesTheLockWhenItIsFree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := filelock.Try(path)
	require.NoError(t, err)
	waited := 0
	second, err := filelock.Wait(t.Context(), path, func(*filelock.TakenError) {
		waited++
		unlock()
	})
	require.NoError(t, err)
	require.Equal(t, 1, waited)
	defer second()

	ctx, cancel := context.WithCancel(t.Context())
	_, err = filelock.Wait(ctx, path, func(*filelock.TakenError) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
}

func TestTry_FailsWhereThereIsNoFolder(t *testing.T) {
	_, err := filelock.Try(filepath.Join(t.TempDir(), "missing", "lock"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/program"
)

func TestCommand_ShowsItsHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"--version"}, {"demo", "--help"}, {"up", "--help"}} {
		var out bytes.Buffer
		cmd := newCommand()
		cmd.SetOut(&out)
		require.Equal(t, program.ExitOK, program.Run(t.Context(), cmd, args, &out))
		require.NotEmpty(t, out.String())
	}
	var stderr bytes.Buffer
	require.Equal(t, program.ExitUsage, program.Run(t.Context(), newCommand(), []string{"demo", "--frob"}, &stderr))
	require.Contains(t, stderr.String(), "--frob")
}

func TestUntilOrphaned_ReturnsWhatTheFunctionReturns(t *testing.T) {
	boom := errors.New("boom")
	require.ErrorIs(t, untilOrphaned(t.Context(), func(context.Context) error { return boom }), boom)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, untilOrphaned(ctx, func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return nil
	}))
}

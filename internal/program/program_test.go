package program_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/program"
)

type chosen struct{ error }

func (chosen) ExitCode() int { return 3 }

func TestRun_ExitStatus(t *testing.T) {
	broken := errors.New("broken")
	for _, row := range []struct {
		name   string
		args   []string
		err    error
		status int
		stderr string
	}{
		{"what works says nothing", nil, nil, 0, ""},
		{"what fails says why", nil, broken, 1, "demo: broken\n"},
		{"an unknown flag is a wrong call", []string{"--nope"}, nil, 2, "demo: unknown flag: --nope (see demo --help)\n"},
		{"a missing flag is a wrong call", []string{"sub"}, nil, 2, "demo: required flag(s) \"must\" not set (see demo --help)\n"},
		{"a command may find its call wrong", nil, program.Usage(broken), 2, "demo: broken (see demo --help)\n"},
		{"an error may choose", nil, chosen{broken}, 3, "demo: broken\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := &cobra.Command{Use: "demo", RunE: func(*cobra.Command, []string) error { return row.err }}
			sub := &cobra.Command{Use: "sub", RunE: func(*cobra.Command, []string) error { return nil }}
			sub.Flags().String("must", "", "")
			require.NoError(t, sub.MarkFlagRequired("must"))
			cmd.AddCommand(sub)
			var stderr bytes.Buffer
			require.Equal(t, row.status, program.Run(t.Context(), cmd, row.args, &stderr))
			require.Equal(t, row.stderr, stderr.String())
		})
	}
}

// Package program runs a cobra command as a process: signals, the last word on
// standard error, and the exit status.
//
//	0  it worked, or it was told to end (SIGTERM, SIGINT) and did so in good order
//	1  it failed; the reason is one line on standard error
//	2  it was called wrongly
//
// An error that has a method ExitCode() int chooses its own status.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/internal/version"
)

// The exit statuses.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// usageError is a call with wrong arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage marks an error as the caller's: the exit status is then 2.
func Usage(err error) error { return usageError{err} }

// Main runs cmd with the process's arguments until it ends; SIGTERM and SIGINT end
// its context, and a second signal ends the process. It returns the exit status.
func Main(cmd *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), //nolint:forbidigo // every program's first context
		syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	unhook := context.AfterFunc(ctx, stop)
	defer unhook()
	return Run(ctx, cmd, os.Args[1:], os.Stderr)
}

// Run runs cmd with args until it ends or ctx does. It returns the exit status.
func Run(ctx context.Context, cmd *cobra.Command, args []string, stderr io.Writer) int {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.Version = version.String()
	cmd.SetArgs(args)
	began := false
	noteBegin(cmd, &began)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var usage usageError
	var chosen interface{ ExitCode() int }
	switch {
	case !began, errors.As(err, &usage):
		_, _ = fmt.Fprintf(stderr, "%s: %v (see %s --help)\n", cmd.Name(), err, cmd.Name())
		return ExitUsage
	case errors.As(err, &chosen):
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", cmd.Name(), err)
		return chosen.ExitCode()
	default:
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", cmd.Name(), err)
		return ExitFailed
	}
}

// noteBegin has began set when cmd, or a command below it, is run: an error before
// that is about the arguments.
func noteBegin(cmd *cobra.Command, began *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return run(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		noteBegin(c, began)
	}
}

package harness

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kas-agentk/kas/sandbox/stack"
)

// Beside is an Env over the same cluster and programs with a Gitaly, a ror and a kas of its
// own, which are configured otherwise. They are stopped when the test ends.
func (e *Env) Beside(tb testing.TB, change func(*stack.Config)) *Env {
	tb.Helper()
	dir, err := os.MkdirTemp(e.Dir, "beside-") //nolint:usetesting // it stays with the rest of the Env's folder, logs included
	if err != nil {
		tb.Fatal(err)
	}
	own := &Env{
		Dir: dir, Cluster: e.Cluster, Programs: e.Programs, Kube: e.Kube, Dynamic: e.Dynamic, guards: e.guards,
	}
	cfg := stack.Config{
		Dir: filepath.Join(dir, "stack"), Programs: e.Programs,
		PollPeriod: pollPeriod, InfoCacheTTL: infoCacheTTL, LogLevel: logLevel(),
	}
	change(&cfg)
	if own.Stack, err = stack.New(cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := own.Stack.Stop(); err != nil {
			tb.Error(err)
		}
		if own.Gitaly != nil {
			if err := own.Gitaly.Stop(); err != nil {
				tb.Error(err)
			}
		}
	})
	if err := own.startStack(tb.Context(), os.Stderr); err != nil {
		tb.Fatal(err)
	}
	own.guards.watch(own.Stack.Ror, own.Stack.Kas, own.Gitaly.Process)
	return own
}

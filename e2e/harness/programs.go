package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/filelock"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// buildPrograms puts our programs into dir. They are built in a folder that the next
// package finds again, because linking them takes longer than many a test; dir gets
// links of its own, so that nobody exchanges a program under a running Env.
func buildPrograms(ctx context.Context, dir string, race bool) (stack.Programs, error) {
	source, err := sandbox.Source(ctx)
	if err != nil {
		return stack.Programs{}, fmt.Errorf("find the sources: %w", err)
	}
	shared := filepath.Join(source, ".build", "e2e")
	if race {
		shared += "-race"
	}
	for _, d := range []string{dir, shared} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return stack.Programs{}, fmt.Errorf("make a folder for programs: %w", err)
		}
	}
	unlock, err := filelock.Wait(ctx, filepath.Join(shared, "lock"), func(*filelock.TakenError) {})
	if err != nil {
		return stack.Programs{}, fmt.Errorf("build programs: %w", err)
	}
	defer unlock()
	built, err := stack.BuildPrograms(ctx, shared, race)
	if err != nil {
		return stack.Programs{}, err
	}
	for _, path := range []string{built.Kas, built.Agentk, built.Ror, built.Kasctl} {
		if err := link(path, filepath.Join(dir, filepath.Base(path))); err != nil {
			return stack.Programs{}, err
		}
	}
	return stack.ProgramsIn(dir), nil
}

// link makes to the same file as from, or a copy of it on another file system.
func link(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	program, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy a program: %w", err)
	}
	if err := os.WriteFile(to, program, 0o700); err != nil {
		return fmt.Errorf("copy a program: %w", err)
	}
	return nil
}

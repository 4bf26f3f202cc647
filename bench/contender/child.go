package contender

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"github.com/kas-agentk/kas/bench/objects"
)

// Spec is what a child process is told at its start, by flags.
type Spec struct {
	Config

	Name string
	// ProfileDir, unless empty, is where a CPU profile and a heap profile of each
	// phase go.
	ProfileDir string
}

// command is a line that the parent writes.
type command struct {
	Phase Phase `json:"phase"`
	// Project that the set belongs to.
	Project string `json:"project"`
	// Set is the path of a file; empty: the empty set.
	Set string `json:"set"`
}

// Figures of one phase, a line that the child writes.
type Figures struct {
	// Seconds until the last object was settled.
	Seconds float64 `json:"seconds"`
	// CPUSeconds of the process, user and system, until it was quiet again.
	CPUSeconds float64 `json:"cpu_seconds"`
	// PeakBytes is the largest resident set size in this phase, of which BaseBytes
	// were there when the contender had warmed up and read no set yet: the program,
	// which holds all contenders, and what one has to know of the API server.
	PeakBytes int64 `json:"peak_bytes"`
	BaseBytes int64 `json:"base_bytes"`
	// Error says why there are no figures.
	Error string `json:"error,omitempty"`
}

// quiet is how long a contender may go on after it has returned: with what informers
// still bring, mostly.
const quiet = 500 * time.Millisecond

// Serve runs one contender: it carries out what in asks for, and answers on out,
// until in ends.
func Serve(ctx context.Context, spec Spec, in io.Reader, out io.Writer) (err error) {
	c, err := newContender(ctx, spec.Name, spec.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	lines := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	var project string
	var base int64
	for lines.Scan() {
		var cmd command
		if err := json.Unmarshal(lines.Bytes(), &cmd); err != nil {
			return fmt.Errorf("command: %w", err)
		}
		if cmd.Project != project {
			project = cmd.Project
			debug.FreeOSMemory()
			if base, err = Memory(os.Getpid(), "VmRSS"); err != nil {
				return err
			}
		}
		figures, err := measure(ctx, c, cmd, spec.ProfileDir)
		if err != nil {
			figures = Figures{Error: err.Error()}
		}
		figures.BaseBytes = base
		if err := answers.Encode(figures); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("commands: %w", err)
	}
	return nil
}

// measure carries out one command.
func measure(ctx context.Context, c contender, cmd command, profileDir string) (Figures, error) {
	var set []objects.Object
	if cmd.Set != "" {
		var err error
		if set, err = objects.Read(cmd.Set); err != nil {
			return Figures{}, err
		}
	}
	run, err := c.prepare(cmd.Project, cmd.Phase, set)
	if err != nil {
		return Figures{}, err
	}
	// What reading left behind is not the contender's.
	debug.FreeOSMemory()
	if err := resetPeak(); err != nil {
		return Figures{}, err
	}
	stop, err := profile(profileDir, string(cmd.Phase))
	if err != nil {
		return Figures{}, err
	}
	before, err := cpuTime()
	if err != nil {
		return Figures{}, err
	}
	began := time.Now()
	settled, err := run(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return Figures{}, err
	}
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
		return Figures{}, ctx.Err()
	}
	after, err := cpuTime()
	if err != nil {
		return Figures{}, err
	}
	peak, err := Memory(os.Getpid(), "VmHWM")
	return Figures{
		Seconds: settled.Sub(began).Seconds(), CPUSeconds: (after - before).Seconds(), PeakBytes: peak,
	}, err
}

// profile starts a CPU profile, if there is a place for it. The function that it
// returns writes that and what is on the heap.
func profile(dir, name string) (stop func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	cpu, err := os.Create(filepath.Join(dir, name+".cpu"))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		heap, err := os.Create(filepath.Join(dir, name+".heap"))
		if err != nil {
			return errors.Join(fmt.Errorf("profile: %w", err), cpu.Close())
		}
		return errors.Join(pprof.WriteHeapProfile(heap), heap.Close(), cpu.Close())
	}, nil
}

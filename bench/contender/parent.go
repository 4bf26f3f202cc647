package contender

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// Process is a contender in a process of its own.
type Process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// Start starts this program again, as the contender that spec describes. What it
// logs goes to log. The end of ctx kills it.
func Start(ctx context.Context, spec Spec, log io.Writer) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "contender", "--name="+spec.Name, "--kubeconfig="+spec.Kubeconfig,
		"--user-agent="+spec.UserAgent, "--namespace="+spec.Namespace, "--profile-dir="+spec.ProfileDir)
	cmd.Stderr = log
	p := &Process{cmd: cmd}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p.out = bufio.NewScanner(out)
	p.out.Buffer(nil, 1<<20)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return p, nil
}

// Sync has it sync the set in a file (empty: the empty set) and returns how that went.
func (p *Process) Sync(project string, phase Phase, set string) (Figures, error) {
	line, err := json.Marshal(command{Phase: phase, Project: project, Set: set})
	if err != nil {
		return Figures{}, fmt.Errorf("command: %w", err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return Figures{}, fmt.Errorf("command: %w", err)
	}
	if !p.out.Scan() {
		return Figures{}, fmt.Errorf("answer: %w", errors.Join(io.ErrUnexpectedEOF, p.out.Err()))
	}
	var f Figures
	if err := json.Unmarshal(p.out.Bytes(), &f); err != nil {
		return Figures{}, fmt.Errorf("answer: %w", err)
	}
	return f, nil
}

// Close ends it.
func (p *Process) Close() error {
	err := p.in.Close()
	for p.out.Scan() { // nothing more to say
	}
	if err := errors.Join(err, p.cmd.Wait()); err != nil {
		return fmt.Errorf("end a contender: %w", err)
	}
	return nil
}

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// readyEvery is the wait between two readiness checks.
	readyEvery = 20 * time.Millisecond
	// readyTimeout bounds one readiness check, so that one that hangs is repeated.
	readyTimeout = 5 * time.Second
)

// run is one life of the program.
type run struct {
	pid      int
	logStart int64         // where this run's output begins in the log file
	exited   chan struct{} // closed when the child is reaped
	err      error         // nil or *ExitError; valid after exited

	mu    sync.Mutex
	asked bool // its end was asked for
}

// spawn starts the program and the goroutine that reaps it.
func (p *Process) spawn() (*run, error) {
	cmd := exec.Command(p.cfg.Path, p.cfg.Args...) //nolint:noctx // it outlives the context of its start
	cmd.Dir = p.cfg.Dir
	cmd.Env = append(os.Environ(), p.cfg.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r := &run{exited: make(chan struct{})}
	var log *os.File
	if p.cfg.LogFile != "" {
		var err error
		if log, r.logStart, err = openLog(p.cfg.LogFile); err != nil {
			return nil, err
		}
		cmd.Stdout, cmd.Stderr = log, log
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if log != nil {
			_ = log.Close() // the child has its own copy
		}
		if err == nil {
			r.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // its outcome is in ProcessState
			p.reaped(r, cmd.ProcessState)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("run %s: %w", p.cfg.Path, err)
	}
	return r, nil
}

// reaped records the end of a run. Children in its group go with it.
func (p *Process) reaped(r *run, state *os.ProcessState) {
	_ = syscall.Kill(-r.pid, syscall.SIGKILL) // ESRCH where nothing is left
	r.mu.Lock()
	asked := r.asked
	r.mu.Unlock()
	if !state.Success() || !asked {
		exit := &ExitError{Name: p.cfg.Name, Status: state.String(), LogFile: p.cfg.LogFile, Tail: tail(p.cfg.LogFile, r.logStart)}
		if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			exit.Signal = status.Signal()
		}
		r.err = exit
	}
	// Whoever learns of either may start the next run at once, and must then find this
	// one over and its failure told: both happen before mu is free again.
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(r.exited) // last: whoever has seen the end finds its failure told
	if asked {
		return
	}
	select {
	case <-p.failed:
	default:
	}
	p.failed <- r.err // nobody else sends while mu is held, and there is room
}

// waitReady returns nil when the program is ready, and why it is not otherwise.
func (p *Process) waitReady(ctx context.Context, r *run) error {
	if p.cfg.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		err := p.checkReady(ctx)
		select {
		case <-r.exited:
			return r.err // whoever answered, it was not this program
		default:
		}
		if err == nil {
			return nil
		}
		select {
		case <-r.exited:
			return r.err
		case <-ctx.Done():
			return fmt.Errorf("not ready within %s: %w; its log ends:\n%s",
				p.cfg.StartTimeout, errors.Join(err, ctx.Err()), tail(p.cfg.LogFile, r.logStart))
		case <-tick.C:
		}
	}
}

func (p *Process) checkReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return p.cfg.Ready(ctx)
}

// ask notes that the end is wanted. It is false where the end came first.
func (r *run) ask() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.exited:
		return false
	default:
		r.asked = true
		return true
	}
}

func (r *run) signal(sig syscall.Signal) {
	_ = syscall.Kill(r.pid, sig) // ESRCH: it is gone already
}

// kill ends the run and everything in its group, and waits for it.
func (r *run) kill() {
	if r.ask() {
		_ = syscall.Kill(-r.pid, syscall.SIGKILL)
	}
	<-r.exited
}

func openLog(path string) (*os.File, int64, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, 0, fmt.Errorf("make log folder: %w", err)
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open log: %w", err)
	}
	info, err := log.Stat()
	if err != nil {
		_ = log.Close()
		return nil, 0, fmt.Errorf("open log: %w", err)
	}
	return log, info.Size(), nil
}

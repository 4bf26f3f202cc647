package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

const (
	defaultStartTimeout = 2 * time.Minute
	defaultStopTimeout  = 20 * time.Second
)

// ErrRunning is returned by Start while the process runs.
var ErrRunning = errors.New("already running")

// Config is what to run. Name and Path are required.
type Config struct {
	// Name is what errors and logs call it.
	Name string
	// Path of the program and its arguments, without the program's name.
	Path string
	Args []string
	// Env is added to the environment of this process; a later one wins.
	Env []string
	// Dir is the working directory. Default: this process's.
	Dir string
	// LogFile gets standard output and standard error, appended. Its folder is
	// made. Empty: they are thrown away.
	LogFile string
	// Ready returns nil once the program serves. It is called again and again
	// until then. Nil: ready as soon as it runs.
	Ready func(context.Context) error
	// StartTimeout is how long it may take to be ready. Default two minutes.
	StartTimeout time.Duration
	// StopTimeout is how long Stop waits after SIGTERM. Default 20 seconds.
	StopTimeout time.Duration
	// AnyStopStatus: the program is known to end with an error status even when it
	// ended in good order, so Stop takes any.
	AnyStopStatus bool
}

// Process is a program that can be started any number of times, one at a time.
// Its methods may be called concurrently.
type Process struct {
	cfg Config
	// starting serialises Start, Stop and Kill.
	starting sync.Mutex
	failed   chan error

	mu  sync.Mutex // also makes the end of a run one event: see reaped
	run *run       // newest run; nil before the first
}

// New returns a process that is not running.
func New(cfg Config) *Process {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = defaultStartTimeout
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	return &Process{cfg: cfg, failed: make(chan error, 1)}
}

// Name is the Config's.
func (p *Process) Name() string { return p.cfg.Name }

// LogFile is the Config's.
func (p *Process) LogFile() string { return p.cfg.LogFile }

// Start runs the program and returns when it is ready. When it ends before, is not
// ready in time, or ctx ends, it is killed and the error tells the tail of its
// log. ctx bounds the wait only: the program outlives it.
func (p *Process) Start(ctx context.Context) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.Running() {
		return fmt.Errorf("start %s: %w", p.cfg.Name, ErrRunning)
	}
	select {
	case <-p.failed: // an earlier run's: whoever starts it again knows
	default:
	}
	r, err := p.spawn()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.cfg.Name, err)
	}
	p.mu.Lock()
	p.run = r
	p.mu.Unlock()
	if err := p.waitReady(ctx, r); err != nil {
		r.kill()
		return fmt.Errorf("start %s: %w", p.cfg.Name, err)
	}
	return nil
}

// Stop asks the program to end with SIGTERM, and kills it when it has not done so
// within the StopTimeout. It returns nil when the program ended by itself and with
// status 0 or by the signal, or was not running.
func (p *Process) Stop() error {
	p.starting.Lock()
	defer p.starting.Unlock()
	r := p.current()
	if r == nil || !r.ask() {
		return nil
	}
	r.signal(syscall.SIGTERM)
	patience := time.NewTimer(p.cfg.StopTimeout)
	defer patience.Stop()
	select {
	case <-r.exited:
		var exit *ExitError
		if errors.As(r.err, &exit) && (exit.Signal == syscall.SIGTERM || p.cfg.AnyStopStatus) {
			return nil
		}
		return r.err
	case <-patience.C:
		r.kill()
		return fmt.Errorf("stop %s: it did not end within %s of SIGTERM and was killed; its log ends:\n%s",
			p.cfg.Name, p.cfg.StopTimeout, tail(p.cfg.LogFile, r.logStart))
	}
}

// Kill ends the program with SIGKILL and waits until it is gone. It does nothing
// when the program does not run.
func (p *Process) Kill() {
	p.starting.Lock()
	defer p.starting.Unlock()
	if r := p.current(); r != nil {
		r.kill()
	}
}

// Restart is Stop and Start.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Running tells whether the program runs.
func (p *Process) Running() bool {
	r := p.current()
	if r == nil {
		return false
	}
	select {
	case <-r.exited:
		return false
	default:
		return true
	}
}

// PID is the process ID of the newest run, or zero before the first.
func (p *Process) PID() int {
	if r := p.current(); r != nil {
		return r.pid
	}
	return 0
}

// Exited is closed when the run that is newest now has ended. It is nil before
// the first Start.
func (p *Process) Exited() <-chan struct{} {
	if r := p.current(); r != nil {
		return r.exited
	}
	return nil
}

// Failed receives an *ExitError each time the program ends without having been
// asked to, whatever its status. One that nobody received gives way to the next.
func (p *Process) Failed() <-chan error { return p.failed }

// LogTail is the end of what the newest run has written.
func (p *Process) LogTail() string {
	if r := p.current(); r != nil {
		return tail(p.cfg.LogFile, r.logStart)
	}
	return ""
}

func (p *Process) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

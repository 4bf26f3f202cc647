package harness

import (
	"fmt"
	"syscall"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox/process"
)

// Eventually is testkit.Eventually that gives up at once when a part that the
// fixture rests on dies: kas, ror, Gitaly, the cluster, or one of its own agentks.
// A part that was stopped or killed through its Process is not missed.
func (f *Fixture) Eventually(check func() error) {
	f.T.Helper()
	testkit.Eventually(f.T, func() error {
		err := check()
		if err == nil {
			return nil
		}
		if died := f.guards.check(append(f.parts(), f.agentks...)...); died != nil {
			f.T.Fatalf("nothing to wait for: %v\nwas waiting because: %v", died, err)
		}
		return err
	})
}

// parts is all processes of the Env.
func (e *Env) parts() []*process.Process {
	var all []*process.Process
	if e.Stack != nil {
		all = append(all, e.Stack.Kas, e.Stack.Ror)
	}
	if e.Gitaly != nil {
		all = append(all, e.Gitaly.Process)
	}
	if e.Cluster != nil && e.Cluster.ControlPlane != nil {
		all = append(all, e.Cluster.ControlPlane.Processes()...)
	}
	return all
}

// Pause stops a process from doing anything, as a machine that hangs does, until
// the function it returns is called or the test ends.
func (f *Fixture) Pause(p *process.Process) (resume func()) {
	f.T.Helper()
	send := func(sig syscall.Signal) error {
		if !p.Running() {
			return nil
		}
		if err := syscall.Kill(p.PID(), sig); err != nil {
			return fmt.Errorf("send %s to %s: %w", sig, p.Name(), err)
		}
		return nil
	}
	resume = func() {
		f.T.Helper()
		if err := send(syscall.SIGCONT); err != nil {
			f.T.Error(err)
		}
	}
	f.T.Cleanup(resume)
	if err := send(syscall.SIGSTOP); err != nil {
		f.T.Fatal(err)
	}
	return resume
}

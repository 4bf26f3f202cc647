package process_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox/process"
)

// parentEnv makes the test program a parent that starts a child, tells its PID,
// and waits to be killed.
const parentEnv = "PROCESS_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		parent()
	}
	goleak.VerifyTestMain(m)
}

func parent() {
	p := process.New(process.Config{Name: "child", Path: "/bin/sleep", Args: []string{"600"}})
	if err := p.Start(context.Background()); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = fmt.Fprintln(os.Stdout, p.PID())
	select {}
}

// shell is a process that runs a script.
func shell(t *testing.T, script string, change func(*process.Config)) *process.Process {
	t.Helper()
	cfg := process.Config{
		Name:    "script",
		Path:    "/bin/sh",
		Args:    []string{"-c", script},
		LogFile: filepath.Join(t.TempDir(), "logs", "script.log"),
	}
	if change != nil {
		change(&cfg)
	}
	p := process.New(cfg)
	t.Cleanup(p.Kill)
	return p
}

// gone is nil when no live process has the ID.
func gone(pid int) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil //nolint:nilerr // no such process
	}
	if _, after, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(after, "Z") {
		return nil // dead; whoever adopted it has not looked yet
	}
	return fmt.Errorf("process %d still runs: %s", pid, stat)
}

func TestStart_ReturnsWhenReady(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	checks := 0
	p := shell(t, "touch "+mark+"; exec sleep 600", func(cfg *process.Config) {
		cfg.Ready = func(context.Context) error {
			checks++
			_, err := os.Stat(mark)
			return err
		}
	})
	require.NoError(t, p.Start(t.Context()))
	require.FileExists(t, mark)
	require.Positive(t, checks)
	require.True(t, p.Running())
	require.ErrorIs(t, p.Start(t.Context()), process.ErrRunning)
	require.NoError(t, p.Stop())
	require.False(t, p.Running())
	require.NoError(t, p.Stop(), "stopping what does not run")
}

func TestStart_TellsTheLogOfAProgramThatEndsBeforeItIsReady(t *testing.T) {
	p := shell(t, "echo no such flag: --frob >&2; exit 3", func(cfg *process.Config) {
		cfg.Ready = func(context.Context) error { return errors.New("not yet") }
	})
	err := p.Start(t.Context())
	var exit *process.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, "exit status 3", exit.Status)
	require.Contains(t, err.Error(), "script ended: exit status 3")
	require.Contains(t, err.Error(), "no such flag: --frob")
	require.False(t, p.Running())
}

func TestStart_KillsAProgramThatIsNeverReady(t *testing.T) {
	timeout := 150 * time.Millisecond
	testkit.Eventually(t, func() error {
		timeout *= 2 // a busy machine may take long to begin the script
		p := shell(t, "echo waiting for Godot; exec sleep 600", func(cfg *process.Config) {
			cfg.Ready = func(context.Context) error {
				if log, _ := os.ReadFile(cfg.LogFile); len(log) == 0 {
					return errSilent
				}
				return errors.New("connection refused")
			}
			cfg.StartTimeout = timeout
		})
		err := p.Start(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, gone(p.PID()))
		if strings.Contains(err.Error(), errSilent.Error()) {
			return err
		}
		require.Contains(t, err.Error(), "connection refused")
		require.Contains(t, err.Error(), "waiting for Godot")
		return nil
	})
}

var errSilent = errors.New("it says nothing")

func TestStart_SaysThatThereIsNoSuchProgram(t *testing.T) {
	p := process.New(process.Config{Name: "ghost", Path: "/nonexistent/ghost"})
	require.ErrorContains(t, p.Start(t.Context()), "start ghost: run /nonexistent/ghost")
	require.NoError(t, p.Stop())
	p.Kill()
}

func TestStop_ReportsAProgramThatIgnoresSIGTERM(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p := shell(t, `trap "" TERM; touch `+ready+`; while :; do sleep 600; done`, func(cfg *process.Config) {
		cfg.StopTimeout = 100 * time.Millisecond
		cfg.Ready = func(context.Context) error { _, err := os.Stat(ready); return err }
	})
	require.NoError(t, p.Start(t.Context()))
	require.ErrorContains(t, p.Stop(), "was killed")
	require.NoError(t, gone(p.PID()))
}

func TestStop_ReportsAFailingEnd(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p := shell(t, `trap "echo cannot drain; exit 4" TERM; touch `+ready+`; while :; do sleep 0.01; done`, func(cfg *process.Config) {
		cfg.Ready = func(context.Context) error { _, err := os.Stat(ready); return err }
	})
	require.NoError(t, p.Start(t.Context()))
	require.ErrorContains(t, p.Stop(), "cannot drain")
	require.Empty(t, p.Failed(), "the end was asked for")
}

func TestKill_TakesChildrenAlongAndAllowsAnotherStart(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	p := shell(t, "sleep 600 & echo $! >"+pidFile+".new; mv "+pidFile+".new "+pidFile+"; wait", func(cfg *process.Config) {
		cfg.Ready = func(context.Context) error { _, err := os.Stat(pidFile); return err }
	})
	for range 2 {
		require.NoError(t, p.Start(t.Context()))
		data, err := os.ReadFile(pidFile)
		require.NoError(t, err)
		child, err := strconv.Atoi(strings.TrimSpace(string(data)))
		require.NoError(t, err)
		p.Kill()
		require.NoError(t, os.Remove(pidFile))
		testkit.Eventually(t, func() error { return gone(child) })
		require.NoError(t, gone(p.PID()))
	}
	require.Empty(t, p.Failed(), "the end was asked for")
}

func TestWatch_NamesTheProgramThatEndsUnasked(t *testing.T) {
	steady := shell(t, "exec sleep 600", nil)
	require.NoError(t, steady.Start(t.Context()))
	doomed := shell(t, "echo first life; exec sleep 600", nil)
	require.NoError(t, doomed.Start(t.Context()))
	watched := make(chan error, 1)
	go func() { watched <- process.Watch(t.Context(), steady, doomed) }()
	require.NoError(t, doomed.Restart(t.Context()), "an end that was asked for is no failure")
	require.NoError(t, syscall.Kill(doomed.PID(), syscall.SIGKILL))
	var exit *process.ExitError
	require.ErrorAs(t, <-watched, &exit)
	require.Equal(t, syscall.SIGKILL, exit.Signal)
	require.LessOrEqual(t, strings.Count(exit.Tail, "first life"), 1, "the tail is of the newest run")
	require.NoError(t, doomed.Start(t.Context()), "it can be started again")
	require.Empty(t, doomed.Failed())
}

func TestWatch_EndsWithItsContext(t *testing.T) {
	p := shell(t, "exec sleep 600", nil)
	require.NoError(t, p.Start(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, process.Watch(ctx, p), context.Canceled)
}

func TestLogTail_KeepsToTheEndOfALongLog(t *testing.T) {
	p := shell(t, "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; exit 1", nil)
	require.NoError(t, p.Start(t.Context()))
	<-p.Exited()
	lines := strings.Split(p.LogTail(), "\n")
	require.Len(t, lines, 40)
	require.Equal(t, "line 2999", lines[39])
}

func TestChild_DiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), parentEnv+"=1")
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.Error(t, gone(child), "the child runs while its parent does")
	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	testkit.Eventually(t, func() error { return gone(child) })
}

func TestStop_TakesAnyStatusWhereThatIsAsked(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p := shell(t, `trap "exit 4" TERM; touch `+ready+`; while :; do sleep 0.01; done`, func(cfg *process.Config) {
		cfg.AnyStopStatus = true
		cfg.Ready = func(context.Context) error { _, err := os.Stat(ready); return err }
	})
	require.NoError(t, p.Start(t.Context()))
	require.NoError(t, p.Stop())
}

package harness

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGuards_KnowWhoDiedUnasked(t *testing.T) {
	program := func(name, script string) *process.Process {
		return process.New(process.Config{
			Name: name, Path: "/bin/sh", Args: []string{"-c", script}, LogFile: filepath.Join(t.TempDir(), name+".log"),
		})
	}
	dies, lives := program("dies", "echo its last words; kill -9 $$"), program("lives", "exec sleep 600")
	killed, stopped := program("killed", "exec sleep 600"), program("stopped", "exec sleep 600")
	g := newGuards()
	g.watch(dies, killed, stopped, lives)
	for _, p := range []*process.Process{killed, stopped, lives, dies} {
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	killed.Kill()
	if err := stopped.Stop(); err != nil {
		t.Fatal(err)
	}
	<-dies.Exited()
	var err error
	testkit.Eventually(t, func() error {
		if err = g.check(killed, dies, lives); err == nil {
			return errors.New("nobody died yet")
		}
		return nil
	})
	for _, want := range []string{"dies ended: signal: killed", "its last words"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if err := g.check(killed, stopped, lives); err != nil {
		t.Errorf("those that were asked to end, or live, are mourned: %v", err)
	}
	// Who died just now is not forgotten at the end.
	if err := syscall.Kill(lives.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-lives.Exited()
	if err := g.close(); err == nil || !strings.Contains(err.Error(), "2 processes died unasked") {
		t.Errorf("at the end: %v", err)
	}
}

func TestMetrics_SumPicksByLabels(t *testing.T) {
	m := Metrics{`a{b="1",c="x"}`: 1, `a{b="2",c="x"}`: 2, `a{b="1",c="y"}`: 4, "ab": 8}
	for _, row := range []struct {
		labels []string
		want   float64
	}{{nil, 7}, {[]string{`b="1"`}, 5}, {[]string{`b="1"`, `c="y"`}, 4}, {[]string{`b="3"`}, 0}} {
		if got := m.Sum("a", row.labels...); got != row.want {
			t.Errorf("sum with %v is %v, want %v", row.labels, got, row.want)
		}
	}
	if got := m.Sum("ab"); got != 8 {
		t.Errorf("sum of ab is %v", got)
	}
}

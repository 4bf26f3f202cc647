package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kas-agentk/kas/sandbox"
)

// shared is one whole control plane for all tests of the package: started by the
// first that wants it, stopped when all are done.
var shared = sync.OnceValues(func() (*sandbox.ControlPlane, error) {
	started.Store("controlplane", true)
	return sandbox.StartControlPlane(context.Background(), sandbox.ControlPlaneConfig{Nodes: 2, LivePods: 2, Progress: os.Stderr})
})

var started sync.Map

func TestMain(m *testing.M) {
	code := m.Run()
	if err := tearDown(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "tear down:", err)
		code = 1
	}
	os.Exit(code)
}

func tearDown() error {
	if _, ok := started.Load("controlplane"); !ok {
		return nil
	}
	c, err := shared()
	if err != nil {
		return nil //nolint:nilerr // a test has reported it
	}
	return errors.Join(c.Stop(), nothingLeft(c), goleak.Find())
}

// nothingLeft wants no process and no file of a stopped control plane.
func nothingLeft(c *sandbox.ControlPlane) error {
	var errs []error
	for _, p := range c.Processes() {
		if p.Running() {
			errs = append(errs, fmt.Errorf("%s still runs", p.Name()))
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID())); err == nil {
			errs = append(errs, fmt.Errorf("%s is still a process", p.Name()))
		}
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("%s is still there: %w", c.Dir, err))
	}
	return errors.Join(errs...)
}

func controlPlane(t *testing.T) *sandbox.ControlPlane {
	t.Helper()
	c, err := shared()
	require.NoError(t, err)
	return c
}

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/gitops"
)

// childEnv, when set, makes of the test binary a process that syncs once, and that
// kills itself if it is told to. Its value is a doomed in JSON.
const childEnv = "ENGINE_TEST_CHILD"

// childTimeout bounds the life of such a process.
const childTimeout = 2 * time.Minute

// doomed is what a child is told.
type doomed struct {
	Host, Token, CAFile string
	Namespace           string
	Project             gitops.Project
	Desired             gitops.Desired
	// KillAt is the number, from 1, of the write at which the process dies; zero:
	// it lives.
	KillAt int64
	// Sent: the request is carried out, and the process dies before it can look at
	// the answer. Otherwise it dies before it sends the request.
	Sent bool
}

// child is such a process. It prints how many writes it has sent.
func child(spec string) int {
	var d doomed
	if err := json.Unmarshal([]byte(spec), &d); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), childTimeout)
	defer cancel()
	var writes atomic.Int64
	rc := &rest.Config{Host: d.Host, BearerToken: d.Token, TLSClientConfig: rest.TLSClientConfig{CAFile: d.CAFile}, QPS: -1}
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			// A read leaves the cluster as it is: to die at one is to die after the
			// write before it.
			if r.Method == http.MethodGet {
				return next.RoundTrip(r)
			}
			last := writes.Add(1) == d.KillAt
			if last && !d.Sent {
				die()
			}
			resp, err := next.RoundTrip(r)
			if last {
				die()
			}
			return resp, err
		})
	})
	if err := syncOnce(ctx, rc, d); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, writes.Load())
	return 0
}

// die ends this process at once, as kill -9 does.
func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the kernel gets to it
}

// syncOnce is an engine that brings the cluster to what is desired, and ends.
func syncOnce(ctx context.Context, rc *rest.Config, d doomed) error {
	objects, err := cache.New(cache.Config{RESTConfig: rc, FieldManager: cluster.FieldManager, Log: zap.NewNop()})
	if err != nil {
		return err
	}
	c, err := cluster.New(cluster.Config{RESTConfig: rc, Namespace: d.Namespace, Cache: objects})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { return objects.Run(ctx) })
	err = settle(ctx, c, d.Project, d.Desired)
	cancel()
	return errors.Join(err, g.Wait())
}

// settle runs and watches until everything is applied, healthy and gone, and on
// record.
func settle(ctx context.Context, c *cluster.Cluster, p gitops.Project, d gitops.Desired) error {
	for settled := false; ; {
		told := newLog()
		result, err := gitops.Run(ctx, c, p, d, told)
		if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		if err := told.failedPrune(); err != nil {
			return err
		}
		if settled {
			return nil // what was gone is off the inventory now
		}
		watching, stop := context.WithCancel(ctx)
		err = gitops.Watch(watching, c, p, result, newLog(), gitops.WatchConfig{OnReadiness: func(r gitops.Readiness) {
			settled = r.Ready
			if r.Ready || len(r.Drifted) > 0 {
				stop()
			}
		}})
		stop()
		if err != nil || ctx.Err() != nil {
			return fmt.Errorf("watch: %w", errors.Join(err, ctx.Err()))
		}
	}
}

var errPrune = errors.New("not deleted")

// failedPrune returns an error if something that left the set was not deleted, as far
// as the run is concerned.
func (l *log) failedPrune() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, s := range l.newest {
		if s.Position.Path == "" && (s.Action == gitops.ActionFailed || s.Action == gitops.ActionSkipped) {
			return fmt.Errorf("%w: %s: %s", errPrune, name, s.Message)
		}
	}
	return nil
}

// spawn runs a child to its end. It returns how many writes it sent, and whether it
// killed itself instead.
func (a *agent) spawn(t *testing.T, d gitops.Desired, killAt int64, sent bool) (writes int64, killed bool) {
	t.Helper()
	spec, err := json.Marshal(doomed{
		Host: server.Host, Token: server.BearerToken, CAFile: server.CAFile,
		Namespace: a.namespace, Project: a.project, Desired: d, KillAt: killAt, Sent: sent,
	})
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		require.True(t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL, "the child ended with %v: %s", err, stderr.String())
		return 0, true
	}
	require.NoError(t, err, stderr.String())
	writes, err = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	require.NoError(t, err)
	return writes, false
}

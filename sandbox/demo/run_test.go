package demo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox/demo"
)

// startPatience is long enough to build everything from nothing.
const startPatience = 15 * time.Minute

// lineWriter shows the demo's words where the test fails or runs with -v.
type lineWriter struct{ t *testing.T }

func (w lineWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// running is a demo in a goroutine.
type running struct {
	t      *testing.T
	dir    string
	cancel context.CancelFunc
	done   chan error
}

// begin runs the demo and returns when it is ready.
func begin(t *testing.T, dir, bin string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &running{t: t, dir: dir, cancel: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- demo.Run(ctx, demo.Config{Dir: dir, BinDir: bin, Out: lineWriter{t}})
		close(r.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	testkit.EventuallyWithin(t, startPatience, func() error {
		select {
		case err := <-r.done:
			t.Fatalf("the demo ended: %v", err)
		default:
		}
		_, err := os.Stat(filepath.Join(dir, "env"))
		return err
	})
	return r
}

// end tells it to end and wants that it did in good order.
func (r *running) end() {
	r.t.Helper()
	r.cancel()
	require.NoError(r.t, <-r.done)
	require.NoFileExists(r.t, filepath.Join(r.dir, "env"))
}

// shell runs a script that has sourced the env file.
func (r *running) shell(script string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), "sh", "-ec", ". ./env; "+script)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "HOME="+r.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (r *running) mustShell(script string) string {
	r.t.Helper()
	out, err := r.shell(script)
	require.NoError(r.t, err)
	return out
}

// pidOf is the process that has such an argument.
func pidOf(t *testing.T, argument string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range all {
		line, _ := os.ReadFile(path) // it may be gone by now
		if slices.Contains(strings.Split(string(line), "\x00"), argument) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			require.NoError(t, err)
			return pid
		}
	}
	t.Fatalf("no process has the argument %s", argument)
	return 0
}

// What a new user does, on the real thing: run it, change something, end it, run it
// again.
func TestRun_BringsTheSampleInStepAndStartsAgainWarm(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	first := begin(t, dir, bin)
	require.Equal(t, "2/2", first.mustShell(`$KUBECTL -n web get deployment web -o 'jsonpath={.status.readyReplicas}/{.spec.replicas}'`))
	require.Equal(t, "This cluster does what Git says.", first.mustShell(`$KUBECTL -n web get announcement welcome -o 'jsonpath={.spec.message}'`))
	first.mustShell(`
		git clone --quiet "$GIT_URL" clone && cd clone
		sed -i 's/replicas: .*/replicas: 5/' web/deployment.yaml
		git -c user.name=a -c user.email=a@b commit -qam 'Five of them' && git push --quiet`)
	testkit.Eventually(t, func() error {
		out, err := first.shell(`$KUBECTL -n web get deployment web -o 'jsonpath={.status.readyReplicas}'`)
		if err == nil && out != "5" {
			err = errors.New(out + " replicas")
		}
		return err
	})
	testkit.Eventually(t, func() error { // once RoR has heard who may
		out, err := first.shell(`env -u KAS_PROXY_CA_FILE ` + bin + `/kasctl kubeconfig $AGENT_NAME --force --output through-kas >kasctl.out
			$KUBECTL --kubeconfig through-kas -n web get deployment web -o 'jsonpath={.spec.replicas}'
			KUBECONFIG= $KUBECTL --server "$KAS_PROXY_URL/k8s-proxy/" --certificate-authority "$KAS_PROXY_CA_FILE" \
				--token "pat:$AGENT_ID:$ROR_TOKEN" get --raw /api/v1/namespaces/web >namespace.json`)
		if err == nil && out != "5" {
			err = errors.New(out + " replicas, through kas")
		}
		return err
	})
	before := first.mustShell(`echo $AGENT_ID; git ls-remote "$GIT_URL" main; git ls-remote "$CONFIG_GIT_URL" main; echo $ROR_URL`)

	err := demo.Run(t.Context(), demo.Config{Dir: dir, BinDir: bin, Out: io.Discard})
	require.ErrorContains(t, err, "running already", "a second one beside it")
	first.end()

	second := begin(t, dir, bin)
	require.Equal(t, before, second.mustShell(`echo $AGENT_ID; git ls-remote "$GIT_URL" main; git ls-remote "$CONFIG_GIT_URL" main; echo $ROR_URL`))
	require.Equal(t, "5", second.mustShell(`$KUBECTL -n web get deployment web -o 'jsonpath={.spec.replicas}'`))

	// The death of any part ends it, and is told.
	require.NoError(t, syscall.Kill(pidOf(t, "--database="+filepath.Join(dir, "stack", "ror.sqlite")), syscall.SIGKILL))
	require.ErrorContains(t, <-second.done, "ror ended: signal: killed")
	require.NoError(t, demo.Clean(t.Context(), dir))
	require.NoDirExists(t, dir)
}

package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"k8s.io/client-go/tools/clientcmd"
)

// Kubectl is an unmodified kubectl with a kubeconfig.
type Kubectl struct {
	f *Fixture
	// Kubeconfig is a file.
	Kubeconfig string
	// Env is added to its environment.
	Env  []string
	home string
}

// KubectlWith is the cluster's kubectl with a kubeconfig.
func (f *Fixture) KubectlWith(kubeconfig string) *Kubectl {
	f.T.Helper()
	return &Kubectl{f: f, Kubeconfig: kubeconfig, home: f.T.TempDir()}
}

// In is the same kubectl in another namespace, whose name is not on its command line.
func (k *Kubectl) In(namespace string) *Kubectl {
	k.f.T.Helper()
	config, err := clientcmd.LoadFromFile(k.Kubeconfig)
	if err != nil {
		k.f.T.Fatal(err)
	}
	config.Contexts[config.CurrentContext].Namespace = namespace
	file := filepath.Join(k.f.T.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		k.f.T.Fatal(err)
	}
	in := *k
	in.Kubeconfig = file
	return &in
}

// With is the same kubectl with more in its environment.
func (k *Kubectl) With(env ...string) *Kubectl {
	with := *k
	with.Env = append(append([]string{}, k.Env...), env...)
	return &with
}

func (k *Kubectl) command(ctx context.Context, stdin io.Reader, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.f.Cluster.Kubectl, args...)
	cmd.Env = append(append(os.Environ(), "KUBECONFIG="+k.Kubeconfig, "HOME="+k.home), k.Env...)
	cmd.Stdin = stdin
	return cmd
}

// Run runs it to its end, within the CommandTimeout, and returns what it wrote. The error has
// its standard error.
func (k *Kubectl) Run(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(k.f.T.Context(), CommandTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := k.command(ctx, strings.NewReader(stdin), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), errors.Join(ctx.Err(), err), &stderr)
	}
	return stdout.String(), nil
}

// Must is Run that fails the test if that fails.
func (k *Kubectl) Must(args ...string) string {
	k.f.T.Helper()
	out, err := k.Run("", args...)
	if err != nil {
		k.f.T.Fatal(err)
	}
	return out
}

// RunningKubectl is one that has not ended, as far as is known. It is killed with the test, if
// not before.
type RunningKubectl struct {
	f     *Fixture
	what  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  words
	ended chan struct{}
	err   error // once ended is closed
}

// words that one program writes and another reads meanwhile.
type words struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

// Write implements io.Writer.
func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.Write(p)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.String()
}

// Start begins to run it.
func (k *Kubectl) Start(args ...string) *RunningKubectl {
	k.f.T.Helper()
	r := &RunningKubectl{f: k.f, what: "kubectl " + strings.Join(args, " "), ended: make(chan struct{})}
	// Not the test's context, which ends before what waits for it can see the end.
	r.cmd = k.command(context.WithoutCancel(k.f.T.Context()), nil, args...)
	r.cmd.Stdout, r.cmd.Stderr = &r.said, &r.said
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		k.f.T.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		k.f.T.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		r.err = r.cmd.Wait()
	}()
	k.f.T.Cleanup(r.Kill)
	return r
}

// Said is what it has written, on both outputs.
func (r *RunningKubectl) Said() string { return r.said.String() }

// WaitSaid waits until it has written that.
func (r *RunningKubectl) WaitSaid(text string) {
	r.f.T.Helper()
	r.f.Eventually(func() error {
		select {
		case <-r.ended:
			if !strings.Contains(r.Said(), text) {
				r.f.T.Fatalf("%s ended with %v, and never said %q: %s", r.what, r.err, text, r.Said())
			}
		default:
		}
		if said := r.Said(); !strings.Contains(said, text) {
			return fmt.Errorf("%s has not said %q, only: %s", r.what, text, said)
		}
		return nil
	})
}

// Write writes to its standard input.
func (r *RunningKubectl) Write(text string) {
	r.f.T.Helper()
	if _, err := io.WriteString(r.stdin, text); err != nil {
		r.f.T.Fatal(err)
	}
}

// Interrupt is Ctrl-C.
func (r *RunningKubectl) Interrupt() {
	r.f.T.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		r.f.T.Fatal(err)
	}
}

// Wait waits until it has ended, and returns how.
func (r *RunningKubectl) Wait() error {
	r.f.T.Helper()
	r.f.Eventually(func() error {
		select {
		case <-r.ended:
			return nil
		default:
			return fmt.Errorf("%s goes on; it has said: %s", r.what, r.Said())
		}
	})
	return r.err
}

// Kill ends it at once.
func (r *RunningKubectl) Kill() {
	_ = r.cmd.Process.Kill()
	<-r.ended
}

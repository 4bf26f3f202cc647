package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/sandbox"
)

// live makes one of the control plane's live pods and returns it with a kubectl for its
// namespace, so that the name of that is on no command line.
func live(t *testing.T, c *sandbox.ControlPlane, i int) (sandbox.LivePod, func(stdin string, args ...string) *exec.Cmd) {
	t.Helper()
	pod := c.LivePods[i]
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, c.WriteKubeconfig(kubeconfig, c.Token, pod.Namespace))
	run := func(stdin string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), c.Kubectl, args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+c.Dir)
		cmd.Stdin = strings.NewReader(stdin)
		return cmd
	}
	manifests := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n---\n", pod.Namespace) + alive(pod.Name)
	require.NoError(t, run(manifests, "apply", "--server-side", "-f", "-").Run())
	require.NoError(t, run("", "wait", "--for=condition=Ready", "pod/"+pod.Name, "--timeout=60s").Run())
	return pod, run
}

func alive(name string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {containers: [{name: c, image: nowhere.example/none:1}]}\n"
}

func TestLivePod_ShowsItsLog(t *testing.T) {
	t.Parallel()
	c := controlPlane(t)
	pod, kubectl := live(t, c, 0)
	require.NoError(t, pod.AppendLog("one line"))
	require.NoError(t, pod.AppendLog("another"))
	out, err := kubectl("", "logs", pod.Name).Output()
	require.NoError(t, err)
	require.Equal(t, "one line\nanother\n", string(out))

	follow := kubectl("", "logs", "--follow", "--tail=1", pod.Name)
	pipe, err := follow.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, follow.Start())
	read := make([]byte, len("another\n"))
	_, err = io.ReadFull(pipe, read)
	require.NoError(t, err)
	require.Equal(t, "another\n", string(read))
	require.NoError(t, pod.AppendLog("a third"))
	_, err = io.ReadFull(pipe, read)
	require.NoError(t, err)
	require.Equal(t, "a third\n", string(read))
	require.NoError(t, follow.Process.Kill())
	require.Error(t, follow.Wait())
}

func TestLivePod_RunsCommandsInAFolderOfItsOwn(t *testing.T) {
	t.Parallel()
	c := controlPlane(t)
	pod, kubectl := live(t, c, 0)
	for _, websocket := range []string{"true", "false"} {
		t.Run("websocket="+websocket, func(t *testing.T) {
			cmd := kubectl("sent\n", "exec", "--stdin", pod.Name, "--", "sh", "-c", "read line; echo $line back; pwd; echo no >&2")
			cmd.Env = append(cmd.Env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+websocket)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			require.NoError(t, err, &stderr)
			require.Equal(t, "sent back\n"+filepath.Join(c.Dir, "pods", pod.Name)+"\n", string(out))
			require.Contains(t, stderr.String(), "no\n")

			out, err = kubectl("", "exec", pod.Name, "--", "sh", "-c", "exit 7").CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "exit status 7")
		})
	}
}

// TestLivePod_OthersRunNothing has one of another name, and one of another namespace.
func TestLivePod_OthersRunNothing(t *testing.T) {
	t.Parallel()
	c := controlPlane(t)
	_, inNamespace := live(t, c, 0)
	plain := func(stdin string, args ...string) *exec.Cmd {
		cmd := inNamespace(stdin, args...)
		cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig)
		return cmd
	}
	for name, kubectl := range map[string]func(string, ...string) *exec.Cmd{"beside-live": inNamespace, "live-0": plain} {
		require.NoError(t, kubectl(alive(name), "apply", "-f", "-").Run())
		require.NoError(t, kubectl("", "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s").Run())
		out, err := kubectl("", "exec", name, "--", "true").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "no exec found")
		out, err = kubectl("", "logs", name).Output()
		require.NoError(t, err)
		require.Equal(t, "This pod is on a fake node: nothing runs in it.\n", string(out))
	}
}

func TestLivePod_IsConnectedToItsAddress(t *testing.T) {
	t.Parallel()
	c := controlPlane(t)
	pod, kubectl := live(t, c, 1)
	for _, websocket := range []string{"true", "false"} {
		t.Run("websocket="+websocket, func(t *testing.T) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", pod.Address)
			require.NoError(t, err)
			served := make(chan error, 1)
			go func() { served <- upperOnce(listener) }()
			forward := kubectl("", "port-forward", pod.Name, ":80")
			forward.Env = append(forward.Env, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+websocket)
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", forwarding(t, forward))
			require.NoError(t, err)
			_, err = io.WriteString(conn, "there and back\n")
			require.NoError(t, err)
			back := make([]byte, len("THERE AND BACK\n"))
			_, err = io.ReadFull(conn, back)
			require.NoError(t, err)
			require.Equal(t, "THERE AND BACK\n", string(back))
			require.NoError(t, conn.Close())
			require.NoError(t, <-served)
		})
	}
}

// upperOnce answers one connection and closes the listener.
func upperOnce(listener net.Listener) error {
	conn, err := listener.Accept()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	if err == nil {
		_, err = conn.Write(bytes.ToUpper(buffer[:n]))
	}
	return errors.Join(err, conn.Close(), listener.Close())
}

var forwarded = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

// forwarding starts a port-forward, for as long as the test lasts, and returns its address.
func forwarding(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	found := forwarded.FindStringSubmatch(line)
	require.NotNil(t, found, "kubectl says: %s", line)
	return found[1]
}

func TestControlPlane_SaysWhereKubeletsAreAfterTheyMoved(t *testing.T) {
	c := controlPlane(t)
	pod, kubectl := live(t, c, 1)
	require.NoError(t, c.MakeNodes(t.Context(), 1))
	t.Cleanup(func() { require.NoError(t, c.MakeNodes(context.WithoutCancel(t.Context()), 0)) })
	out, err := kubectl("", "logs", pod.Name).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "127.0.0.1:1", "where nobody listens")
	require.NoError(t, c.MakeNodes(t.Context(), 0))
	require.NoError(t, kubectl("", "logs", pod.Name).Run())
}

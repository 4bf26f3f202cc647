package scenarios

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kas-agentk/kas/e2e/harness"
)

// pollPeriodOfOwn is how often a fixture's own kas polls.
const pollPeriodOfOwn = 200 * time.Millisecond

// TestProxy_KubectlWorks does with an unmodified kubectl what people do, all at the same time
// through one agent. Nothing of it must be left in agentk.
func TestProxy_KubectlWorks(t *testing.T) {
	t.Parallel()
	f, kubectl := proxied(t, func(f *harness.Fixture) string { return asAgent(f) + jobsToo(f) })
	lonely, leaving := absent(f), leave(f)
	silent, pod := begin(f, kubectl)
	t.Run("at once", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *harness.Fixture, *harness.Kubectl){
			"obeys kasctl's kubeconfig": obeysKasctl, "reads and writes": readsAndWrites, "follows logs": followsLogs, "runs commands": runsCommands,
			"forwards ports": forwardsPorts, "bears slow readers": bearsSlowReaders,
			"lets jobs do what they may": letsJobsDoWhatTheyMay,
			"refuses strangers":          refusesStrangers, "refuses revoked tokens": refusesRevokedTokens,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := f.For(t)
				test(t, f, f.KubectlWith(kubectl.Kubeconfig))
			})
		}
	})
	lonely.WaitSaid("kas: ")
	if err := lonely.Wait(); err == nil || !strings.Contains(lonely.Said(), "not connected") {
		t.Errorf("of an agent that is not there, kubectl says, ending with %v: %s", err, lonely.Said())
	}
	_ = leaving.Wait() // kas looks every ten seconds
	silent.goesOn(f, pod)
	silent.interrupt()
	nothingRuns(f, nil)
}

func obeysKasctl(t *testing.T, f *harness.Fixture, _ *harness.Kubectl) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	status, output := kasctl(f, "", "kubeconfig", f.Config.Path+":"+f.Name, "--create-token", "--output", file,
		"--certificate-authority", f.Stack.KasProxyCAFile)
	if status != 0 {
		t.Fatalf("kasctl kubeconfig exits with %d: %s", status, output)
	}
	if out := f.KubectlWith(file).Must("get", "configmaps", "--namespace", f.Name, "--output", "name"); !strings.Contains(out, "configmap/kube-root-ca.crt") {
		t.Errorf("get says %q", out)
	}
}

func readsAndWrites(t *testing.T, _ *harness.Fixture, kubectl *harness.Kubectl) {
	t.Helper()
	watch := kubectl.Start("get", "configmaps", "--watch", "--output-watch-events", "--output", `jsonpath={.type} {.object.metadata.name} {.object.data.key}{"\n"}`)
	watch.WaitSaid("kube-root-ca.crt")

	manifests := harness.ConfigMap("a", "1") + "---\n" + strings.ReplaceAll(bare, "NAME", "web")
	if out, err := kubectl.Run(manifests, "apply", "--server-side", "--filename", "-"); err != nil || !strings.Contains(out, "configmap/a serverside-applied") {
		t.Fatalf("apply: %v: %s", err, out)
	}
	watch.WaitSaid("ADDED a 1\n")
	if out := kubectl.Must("get", "configmap", "a", "--output", "jsonpath={.data.key} {.metadata.managedFields[0].operation}"); out != "1 Apply" {
		t.Errorf("get says %q", out)
	}
	if out := kubectl.Must("wait", "--for=condition=Ready", "pod/web", "--timeout=60s"); !strings.Contains(out, "condition met") {
		t.Errorf("wait says %q", out)
	}
	if out := kubectl.Must("describe", "pod", "web"); !strings.Contains(out, "registry.example.com/web:1") || !strings.Contains(out, "Successfully assigned") {
		t.Errorf("describe says %s", out)
	}
	conflict, err := kubectl.Run(harness.ConfigMap("a", "2"), "apply", "--server-side", "--field-manager=other", "--filename", "-")
	if err := failedSaying(err, `conflict with "kubectl"`); err != nil {
		t.Errorf("another manager's apply: %v: %s", err, conflict)
	}
	_, err = kubectl.Run("", "get", "configmap", "not-there")
	if err := failedSaying(err, `configmaps "not-there" not found`); err != nil {
		t.Errorf("what is not there: %v", err)
	}
	kubectl.Must("delete", "configmap", "a", "--wait=false")
	watch.WaitSaid("DELETED a 1\n")
	if seen := kubectl.Must("get", "events", "--field-selector=involvedObject.name=web"); !strings.Contains(seen, "Scheduled") {
		t.Errorf("events: %s", seen)
	}
	watch.Interrupt()
	_ = watch.Wait()
}

// bare is a pod by itself.
const bare = `
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec: {containers: [{name: main, image: "registry.example.com/NAME:1"}]}
`

func followsLogs(t *testing.T, f *harness.Fixture, kubectl *harness.Kubectl) {
	t.Helper()
	pod := f.LivePod()
	kubectl = kubectl.In(pod.Namespace)
	if err := pod.AppendLog("first"); err != nil {
		t.Fatal(err)
	}
	if out := kubectl.Must("logs", pod.Name, "--container=main"); out != "first\n" {
		t.Errorf("logs: %q", out)
	}
	follow, attach := kubectl.Start("logs", "--follow", pod.Name), kubectl.Start("attach", pod.Name)
	follow.WaitSaid("first\n")
	f.Eventually(func() error { // attach shows what comes, and only by that, that it is there
		if err := pod.AppendLog("second"); err != nil {
			return err
		}
		if said := attach.Said(); !strings.Contains(said, "second\n") {
			return fmt.Errorf("attach shows %q", said)
		}
		return nil
	})
	follow.WaitSaid("second\n")
	if strings.Contains(attach.Said(), "first") {
		t.Error("attach shows what was before")
	}
	for _, running := range []*harness.RunningKubectl{follow, attach} {
		running.Interrupt()
		_ = running.Wait()
	}
}

func runsCommands(t *testing.T, f *harness.Fixture, kubectl *harness.Kubectl) {
	t.Helper()
	pod := f.LivePod()
	kubectl = kubectl.In(pod.Namespace)
	sent := strings.Repeat("0123456789abcdef\n", 100_000)
	sum := sha256.Sum256([]byte(sent))
	for name, env := range transports {
		t.Run(name, func(t *testing.T) {
			kubectl := kubectl.With(env...)
			// kwok does not pass on the end of standard input, so the command must know it.
			out, err := kubectl.Run(sent, "exec", "--stdin", pod.Name, "--", "sh", "-c",
				"head -c "+strconv.Itoa(len(sent))+" | tee copy | sha256sum; cat copy; echo done >&2")
			if err != nil {
				t.Fatal(err)
			}
			if want := hex.EncodeToString(sum[:]) + "  -\n"; !strings.HasPrefix(out, want) || out[len(want):] != sent {
				t.Errorf("%d bytes were sent there and back, %d came: %.100q", len(sent), len(out)-len(want), out)
			}
			_, err = kubectl.Run("", "exec", pod.Name, "--", "sh", "-c", "echo said by the command >&2; exit 7")
			if err := failedSaying(err, "said by the command", "exit status 7"); err != nil {
				t.Error(err)
			}
			// While it is open, both ways.
			talk := kubectl.Start("exec", "--stdin", pod.Name, "--", "sh", "-c", "while read line; do echo got $line; done")
			for i := range 3 {
				talk.Write(fmt.Sprintf("line %d\n", i))
				talk.WaitSaid(fmt.Sprintf("got line %d\n", i))
			}
			talk.Interrupt()
			if talk.Wait() == nil {
				t.Error("a command that was interrupted has ended well")
			}
		})
	}
}

var forwarded = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

func forwardsPorts(t *testing.T, f *harness.Fixture, kubectl *harness.Kubectl) {
	t.Helper()
	pod := f.LivePod()
	kubectl = kubectl.In(pod.Namespace)
	echo(f, pod.Address)
	for name, env := range transports {
		t.Run(name, func(t *testing.T) {
			f := f.For(t)
			forward := kubectl.With(env...).Start("port-forward", pod.Name, ":80")
			forward.WaitSaid("Forwarding from 127.0.0.1")
			first, second := dialForwarded(f, forward), dialForwarded(f, forward)
			thereAndBack(f, second, 1<<20)
			thereAndBack(f, first, 1<<20)
			forward.Interrupt()
			_ = forward.Wait()
		})
	}
}

// dialForwarded connects to what a port-forward forwards. The connection ends with the test.
func dialForwarded(f *harness.Fixture, forward *harness.RunningKubectl) net.Conn {
	f.T.Helper()
	conn, err := (&net.Dialer{}).DialContext(f.T.Context(), "tcp", forwarded.FindStringSubmatch(forward.Said())[1])
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() { _ = conn.Close() })
	return conn
}

// echo sends back what comes, until the test ends.
func echo(f *harness.Fixture, address string) {
	f.T.Helper()
	listener, err := (&net.ListenConfig{}).Listen(f.T.Context(), "tcp", address)
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
}

// thereAndBack sends so many bytes and wants them back.
func thereAndBack(f *harness.Fixture, conn net.Conn, size int) {
	f.T.Helper()
	sent := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		written <- err
	}()
	got := make([]byte, len(sent))
	if err := conn.SetReadDeadline(time.Now().Add(harness.CommandTimeout)); err != nil {
		f.T.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil {
		f.T.Fatal(err)
	}
	if err := <-written; err != nil {
		f.T.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		f.T.Fatal("what came back is something else")
	}
}

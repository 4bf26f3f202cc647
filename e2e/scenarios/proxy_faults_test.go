package scenarios

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/process"
)

func unchanged(config string) string { return config }

// underWay is a kubectl for everything that stays open.
type underWay struct {
	watch, logs, exec, forward *harness.RunningKubectl
}

// begin has a pod of its own.
func begin(f *harness.Fixture, kubectl *harness.Kubectl) (underWay, sandbox.LivePod) {
	f.T.Helper()
	pod := f.LivePod()
	if err := pod.AppendLog("logged"); err != nil {
		f.T.Fatal(err)
	}
	return beginWith(kubectl.In(pod.Namespace), pod), pod
}

func beginWith(kubectl *harness.Kubectl, pod sandbox.LivePod) underWay {
	u := underWay{
		watch:   kubectl.Start("get", "pod", pod.Name, "--watch", "--output-watch-events"),
		logs:    kubectl.Start("logs", "--follow", pod.Name),
		exec:    kubectl.Start("exec", "--stdin", pod.Name, "--", "sh", "-c", "echo ready; cat"),
		forward: kubectl.Start("port-forward", pod.Name, ":80"),
	}
	u.watch.WaitSaid(pod.Name)
	u.exec.WaitSaid("ready")
	u.forward.WaitSaid("Forwarding from 127.0.0.1")
	u.logs.WaitSaid("logged")
	return u
}

func (u underWay) all() []*harness.RunningKubectl {
	return []*harness.RunningKubectl{u.watch, u.logs, u.exec, u.forward}
}

// goesOn wants that all are still alive.
func (u underWay) goesOn(f *harness.Fixture, pod sandbox.LivePod) {
	f.T.Helper()
	echo(f, pod.Address)
	u.exec.Write("echoed\n")
	u.exec.WaitSaid("echoed")
	if err := pod.AppendLog("late"); err != nil {
		f.T.Fatal(err)
	}
	u.logs.WaitSaid("late")
	conn := dialForwarded(f, u.forward)
	thereAndBack(f, conn, 1<<10)
	patch := []byte(`{"metadata":{"labels":{"changed":"true"}}}`)
	if _, err := f.Kube.CoreV1().Pods(pod.Namespace).Patch(f.T.Context(), pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		f.T.Fatal(err)
	}
	u.watch.WaitSaid("MODIFIED")
}

// interrupt is Ctrl-C for all.
func (u underWay) interrupt() {
	for _, running := range u.all() {
		running.Interrupt()
	}
	for _, running := range u.all() {
		_ = running.Wait()
	}
}

// TestProxy_SurvivesBeingKilled kills what is between kubectl and the cluster while everything
// is under way that stays open. Nothing must be left, neither in agentk nor in kas.
func TestProxy_SurvivesBeingKilled(t *testing.T) {
	t.Parallel()
	f, kas, kubectl := proxiedOfOwn(t, asAgent, unchanged)
	u, pod := begin(f, kubectl)
	u.interrupt()
	nothingRuns(f, kas)

	kubectl = kubectl.In(pod.Namespace)
	for _, test := range []struct {
		name   string
		victim *process.Process
	}{{"kas", kas.Process}, {"agentk", f.Agentk.Process}} {
		t.Run(test.name, func(t *testing.T) {
			f := f.For(t)
			u := beginWith(kubectl, pod)
			test.victim.Kill()
			for _, running := range u.all() {
				// kubectl sees no mistake in the end of a watch.
				if err := running.Wait(); err == nil && running != u.watch {
					t.Errorf("what was cut off has ended well: %s", running.Said())
				}
			}
			if test.victim == kas.Process {
				f.Eventually(func() error { return runsNothing(f) })
				f.Start(kas)
			} else {
				f.Eventually(func() error { return servesNothing(f, kas) })
				waiting := kubectl.Start("get", "pod", pod.Name, "--output", "name")
				f.Eventually(func() error {
					if servesNothing(f, kas) == nil {
						return errors.New("nobody waits yet")
					}
					return nil
				})
				f.Start(f.Agentk)
				if err := waiting.Wait(); err != nil {
					t.Errorf("who came before the agent: %v: %s", err, waiting.Said())
				}
			}
			f.Eventually(func() error {
				_, err := kubectl.Run("", "get", "pod", pod.Name)
				return err
			})
			nothingRuns(f, kas)
		})
	}
}

// servesNothing is an error while kas has something under way.
func servesNothing(f *harness.Fixture, kas *harness.Kas) error {
	return none(f.Metrics(kas.MetricsURL), "kas_proxy_requests_running", "kas_proxy_upgraded_connections")
}

// runsNothing is an error while agentk has something under way for the proxy.
func runsNothing(f *harness.Fixture) error {
	return none(f.Metrics(f.Agentk.MetricsURL), "agentk_kubernetes_api_requests_running", "agentk_kubernetes_api_upgraded_running")
}

// bearsSlowReaders: who asks for much and takes nothing.
func bearsSlowReaders(t *testing.T, f *harness.Fixture, _ *harness.Kubectl) {
	t.Helper()
	const large, calls, readers = 60, 40, 3
	for i := range large { // 12 MB: more than all buffers on the way
		makeConfigMap(f, f.Name, fmt.Sprintf("large-%02d", i), strings.Repeat("x", 200_000), nil)
	}
	bearer := f.PersonalBearer(f.ProxyToken(nil))
	base, c := client(f, f.ProxyKubeconfig(f.Stack.KasProxyURL, bearer))
	url := base + "/api/v1/namespaces/" + f.Name + "/configmaps"
	p50 := func() time.Duration {
		took := make([]time.Duration, calls)
		for i := range took {
			begun := time.Now()
			if err := isStatus(f, c, url+"/large-00", http.StatusOK); err != nil {
				t.Fatal(err)
			}
			took[i] = time.Since(begun)
		}
		slices.Sort(took)
		return took[calls/2]
	}
	p50()
	before := p50()
	for range readers {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := f.ProxyClient().Do(req) // with a connection of its own
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		if _, err := resp.Body.Read(make([]byte, 1)); err != nil { // and no more
			t.Fatal(err)
		}
	}
	f.Eventually(func() error { // the machine itself may just be slower than before
		with := p50()
		t.Logf("p50 of a GET is %s alone and %s beside answers that nobody reads", before, with)
		if with > max(5*before, 200*time.Millisecond) {
			return fmt.Errorf("p50 of a GET went from %s to %s", before, with)
		}
		return nil
	})
}

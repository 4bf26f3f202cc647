package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/e2e/harness"
)

// TestAgentkRestarted_WhileKasIsAway_HealsFromItsLastGoodSet is an outage in which
// everything but the cluster and agentk's state directory is gone.
func TestAgentkRestarted_WhileKasIsAway_HealsFromItsLastGoodSet(t *testing.T) {
	const n = 50
	f := env.New(t)
	for i := range n {
		name := fmt.Sprintf("cm-%02d", i)
		f.Manifests.Write(name+".yaml", harness.ConfigMap(name, "1"))
	}
	commit := f.Manifests.Push("Create")
	f.WaitSynced(commit)
	before := f.ConfigMapVersions()

	// While both are away, somebody edits and deletes.
	f.Stack.Kas.Kill()
	f.Agentk.Kill()
	maps := f.Kube.CoreV1().ConfigMaps(f.Name)
	_, err := maps.Patch(t.Context(), "cm-00", types.MergePatchType, []byte(`{"data":{"key":"edited"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(t.Context(), "cm-01", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Start(f.Agentk)
	f.WaitConfigMap("cm-00", "1")
	f.WaitConfigMap("cm-01", "1")
	// And again while agentk is there.
	heals(f, "cm-02")
	f.WaitConfigMap("cm-02", "1")
	f.Eventually(func() error {
		return contains(f.Agentk.LogTail(), "kas is away: healing from the last good set of commit "+commit)
	})
	f.Eventually(func() error {
		m := f.Metrics(f.Agentk.MetricsURL)
		if m.Sum("agentk_offline") != 1 || m.Sum("agentk_kas_connected") != 0 {
			return fmt.Errorf("offline is %v, connected is %v", m.Sum("agentk_offline"), m.Sum("agentk_kas_connected"))
		}
		return nil
	})
	notReady(f, "kas: not connected to kas, healing from what it said last")
	offline := f.ConfigMapVersions()
	touched(t, before, offline, "cm-00", "cm-01", "cm-02")

	// kas is back: nothing is sent again, and nothing is touched but what changed.
	f.Manifests.Write("cm-03.yaml", harness.ConfigMap("cm-03", "2"))
	f.Manifests.Git("rm", "--quiet", "cm-04.yaml")
	commit = f.Manifests.Push("Change one and remove one while kas is away")
	f.Start(f.Stack.Kas)
	f.WaitSynced(commit)
	f.WaitConfigMap("cm-03", "2")
	f.ExpectGone("cm-04")
	touched(t, offline, f.ConfigMapVersions(), "cm-03", "cm-04")
	if sent := f.Metrics(f.Stack.KasMetricsURL).Sum("kas_push_objects_sent_total"); sent > 1 {
		t.Errorf("kas sent %v objects, want the one that changed", sent)
	}
	f.Eventually(func() error {
		if n := f.Metrics(f.Agentk.MetricsURL).Sum("agentk_offline"); n != 0 {
			return fmt.Errorf("offline is %v", n)
		}
		return nil
	})
}

// TestAgentkRestarted_WhileKasIsAway_AgainAndAgain: each process takes up what the one
// before it kept, whether that gave up its lease or not.
func TestAgentkRestarted_WhileKasIsAway_AgainAndAgain(t *testing.T) {
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	f.Stack.Kas.Kill()
	for _, end := range []func() error{
		f.Agentk.Stop,
		func() error { f.Agentk.Kill(); return nil },
		f.Agentk.Stop,
	} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		f.Start(f.Agentk)
		heals(f, "a")
		f.WaitConfigMap("a", "1")
	}
	f.Start(f.Stack.Kas)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Change"))
	f.WaitConfigMap("a", "2")
}

// notReady waits until agentk says why it is not ready.
func notReady(f *harness.Fixture, why string) {
	f.T.Helper()
	url := strings.Replace(f.Agentk.MetricsURL, "metrics", "readiness", 1)
	f.Eventually(func() error {
		req, err := http.NewRequestWithContext(f.T.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			return fmt.Errorf("ask %s: %w", url, err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("ask %s: %w", url, err)
		}
		defer func() { _ = resp.Body.Close() }()
		body := make([]byte, 1<<10)
		n, _ := resp.Body.Read(body)
		if resp.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return contains(string(body[:n]), why)
	})
}

// touched is an error unless exactly these objects changed.
func touched(t *testing.T, before, after map[string]string, names ...string) {
	t.Helper()
	for name, version := range before {
		if changed := after[name] != version; changed != slices.Contains(names, name) {
			t.Errorf("%s: touched is %v", name, changed)
		}
	}
}

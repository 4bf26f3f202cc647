package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/e2e/harness"
)

// TestKasHangs_LongerThanTheKeepalive takes half a minute: so long agentk waits for
// an answer before it gives the connection up.
func TestKasHangs_LongerThanTheKeepalive(t *testing.T) {
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	b := f.ConfigMap("b")

	resume := f.Pause(f.Stack.Kas)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	commit := f.Manifests.Push("Change one while kas hangs") // which does not wait for kas
	agents, err := f.Client().Agents(t.Context(), f.Config.Path)
	if err != nil || len(agents) != 1 || agents[0].Connected != nil {
		t.Errorf("ror says %+v, %v; want one agent of which nobody knows whether it is connected", agents, err)
	}
	f.Eventually(func() error {
		if f.Metrics(f.Agentk.MetricsURL).Sum("agentk_kas_connected") != 0 {
			return errors.New("agentk holds on to the connection")
		}
		return nil
	})
	heals(f, "b")
	resume()
	f.WaitSynced(commit)
	f.WaitConfigMap("a", "2")
	if now := f.ConfigMap("b"); now.UID == b.UID {
		t.Error("b was not deleted: this test tests less than it should")
	}
}

// TestGitalyHangs_KasDoesNot takes as long as kas waits for one poll.
func TestGitalyHangs_KasDoesNot(t *testing.T) {
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))

	resume := f.Pause(f.Gitaly.Process)
	failed := f.Metrics(f.Stack.KasMetricsURL).Sum("kas_gitaly_polls_total", `result="error"`)
	second := f.NewAgentk("second")
	f.Start(second)
	f.Eventually(func() error {
		for _, check := range []string{"liveness", "readiness"} {
			if err := answers(t.Context(), strings.Replace(f.Stack.KasMetricsURL, "metrics", check, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if f.Metrics(second.MetricsURL).Sum("agentk_kas_connected") != 1 {
			return errors.New("the second replica is not connected")
		}
		if f.Metrics(f.Stack.KasMetricsURL).Sum("kas_gitaly_polls_total", `result="error"`) == failed {
			return errors.New("kas has not noticed")
		}
		return nil
	})
	if f.Metrics(f.Agentk.MetricsURL).Sum("agentk_kas_connected") != 1 {
		t.Error("the agent lost kas because Gitaly hangs")
	}
	heals(f, "a")
	resume()
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Change"))
	f.WaitConfigMap("a", "2")
}

// heals deletes a ConfigMap and waits until it is there again.
func heals(f *harness.Fixture, name string) {
	f.T.Helper()
	old := f.ConfigMap(name)
	maps := f.Kube.CoreV1().ConfigMaps(f.Name)
	if err := maps.Delete(f.T.Context(), name, metav1.DeleteOptions{}); err != nil {
		f.T.Fatal(err)
	}
	f.Eventually(func() error {
		now, err := maps.Get(f.T.Context(), name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get ConfigMap: %w", err)
		}
		if now.UID == old.UID {
			return errors.New("it is still the old one")
		}
		return nil
	})
}

// answers is an error unless a GET is answered with 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, harness.AnswerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

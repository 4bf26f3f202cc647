package faults

import (
	"fmt"
	"testing"

	"github.com/kas-agentk/kas/e2e/harness"
)

// reading is what Gitaly does for those who want more than refs.
var reading = []string{"GetTreeEntries", "TreeEntry", "TreeEntries", "ListBlobs", "GetBlob", "GetBlobs"}

// TestQuiet_ManyAgentsOnOneRepositoryCostOnePoller counts at Gitaly what kas asks of
// it while nothing is pushed.
func TestQuiet_ManyAgentsOnOneRepositoryCostOnePoller(t *testing.T) {
	const agents, rounds = 3, 20
	pollers := func(f *harness.Fixture, want float64) {
		f.T.Helper()
		f.Eventually(func() error {
			if n := f.Metrics(f.Stack.KasMetricsURL).Sum("kas_gitaly_pollers"); n != want {
				return fmt.Errorf("kas has %v pollers, want %v", n, want)
			}
			return nil
		})
	}
	first := env.NewStopped(t)
	pollers(first, 0)
	for i := range 50 {
		name := fmt.Sprintf("cm-%02d", i)
		first.Manifests.Write("many/"+name+".yaml", harness.ConfigMap(name, "1"))
	}
	commit := first.Manifests.Push("Create")
	for i := range agents {
		f := first
		if i > 0 {
			f = env.NewStopped(t)
			f.Manifests = first.Manifests
			f.Configure("default_namespace: " + f.Name)
		}
		f.Agentk = f.NewAgentk("agentk")
		f.Start(f.Agentk)
		f.WaitSynced(commit)
		// One for each configuration project, and one for the manifests.
		pollers(f, float64(i+1)+1)
	}

	const handled = "grpc_server_handled_total"
	before := first.Metrics(first.Gitaly.MetricsURL)
	asked := first.Metrics(first.Stack.KasMetricsURL)
	var after harness.Metrics
	first.Eventually(func() error {
		after = first.Metrics(first.Gitaly.MetricsURL)
		polls := after.Sum(handled, `grpc_method="InfoRefsUploadPack"`) - before.Sum(handled, `grpc_method="InfoRefsUploadPack"`)
		if polls < rounds*(agents+1) {
			return fmt.Errorf("%v polls so far", polls)
		}
		return nil
	})
	pollers(first, agents+1)
	now := first.Metrics(first.Stack.KasMetricsURL)
	for _, method := range reading {
		label := fmt.Sprintf("grpc_method=%q", method)
		if n := after.Sum(handled, label) - before.Sum(handled, label); n != 0 {
			t.Errorf("Gitaly answered %v calls of %s though nothing was pushed", n, method)
		}
	}
	if before.Sum(handled, `grpc_method="GetTreeEntries"`) == 0 {
		t.Error("Gitaly counts no GetTreeEntries at all: this test watches the wrong series")
	}
	for _, metric := range []string{"kas_gitaly_tree_walks_total", "kas_gitaly_blobs_fetched_total", "kas_push_sets_sent_total"} {
		if n := now.Sum(metric) - asked.Sum(metric); n != 0 {
			t.Errorf("%s grew by %v though nothing was pushed", metric, n)
		}
	}
}

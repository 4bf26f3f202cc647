package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/kas-agentk/kas/e2e/harness"
)

// TestReplicas_PollEachRefOnce counts at Gitaly what three kas ask of it together, each of
// which has an agent that follows the same refs.
func TestReplicas_PollEachRefOnce(t *testing.T) {
	const refs, rounds, period = 2, 15, 200 * time.Millisecond
	f := env.NewStopped(t)
	r := f.NewReplicas(3, period)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	followers := []*harness.Fixture{f}
	for i := range r.Kas {
		if i > 0 {
			followers = append(followers, f.NewSibling())
		}
		follower := followers[i]
		follower.Agentk = follower.NewAgentkOf(r.Kas[i].AgentAddress, "agentk")
		follower.Start(follower.Agentk)
		follower.WaitSynced(commit)
	}
	polls := func() float64 {
		return f.Metrics(f.Gitaly.MetricsURL).Sum("grpc_server_handled_total", `grpc_method="InfoRefsUploadPack"`)
	}
	for _, kas := range r.Kas {
		if n := f.Metrics(kas.MetricsURL).Sum("kas_gitaly_pollers"); n != refs {
			t.Errorf("a kas follows %v refs, want %d", n, refs)
		}
	}
	polled := func(kas int) float64 { return f.Metrics(r.Kas[kas].MetricsURL).Sum("kas_gitaly_polls_total") }
	begun, before := time.Now(), polls()
	each := []float64{polled(0), polled(1), polled(2)}
	var n float64
	f.Eventually(func() error {
		if n = polls() - before; n < rounds*refs {
			return fmt.Errorf("%v polls so far", n)
		}
		return nil
	})
	// Each alone would have polled that often in this time; and now and then they do.
	alone := refs * (float64(time.Since(begun))/float64(period) + 1)
	t.Logf("%v polls of %d refs in %s, %.0f of one kas alone at most", n, refs, time.Since(begun), alone*1.12)
	if n > 1.5*alone {
		t.Errorf("three kas made %v polls of %d refs in a time in which one makes %.0f", n, refs, alone)
	}
	// What is new gets to all, though only one of them looks; also when that one is killed.
	busiest := 0
	for i := range each {
		if each[i] = polled(i) - each[i]; each[i] > each[busiest] {
			busiest = i
		}
	}
	for value := range 2 {
		f.Manifests.Write("a.yaml", harness.ConfigMap("a", fmt.Sprint("changed ", value)))
		commit = f.Manifests.Push("Change")
		for i, follower := range followers {
			if value == 0 || i != busiest {
				follower.WaitSynced(commit)
			}
		}
		r.Kas[busiest].Kill()
	}
}

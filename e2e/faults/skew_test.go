package faults

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// TestClockSkew_OfAgentk has the agent live an hour ahead of everybody else, and behind.
// Build its agentk with E2E_SKEW=1.
func TestClockSkew_OfAgentk(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			f := env.NewStopped(t)
			program := f.SkewedAgentk(ahead)
			f.Agentk = f.NewAgentkWith("agentk", func(cfg *stack.AgentkConfig) { cfg.Program = program })
			f.Start(f.Agentk)
			f.Eventually(func() error { return isSkewed(f, ahead) })

			f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
			f.WaitSynced(f.Manifests.Push("Create"))
			heals(f, "a")

			state := f.ClusterState()
			// Calls have deadlines, which agentk counts by its own clock.
			f.Eventually(func() error { return getWithin(f, state, "a", 5*time.Second) })
			watch := state.Watch(maps(f))
			watch.WaitTold(harness.ToldSynced)
			put(f, "b", "1")
			watch.WaitTold("ADDED b")
			catchUp(f, watch)

			f.Stack.Kas.Kill()
			f.Start(f.Stack.Kas)
			f.Eventually(func() error { return getWithin(f, state, "b", 5*time.Second) })
			answer, err := state.Get(&clusterstate.GetRequest{
				Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: f.Name, Name: "b", Shape: clusterstate.Shape_SHAPE_TABLE,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: the source is current at %s (now %s), the row is %q", name,
				answer.GetSource().GetCurrentAt().AsTime(), time.Now(), answer.GetItem().GetCells())
		})
	}
}

// isSkewed is an error unless the agentk's clock, as its lease shows it, is that wrong.
func isSkewed(f *harness.Fixture, ahead time.Duration) error {
	leases, err := f.Kube.CoordinationV1().Leases(f.AgentNamespace).List(f.T.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range leases.Items {
		if at := leases.Items[i].Spec.RenewTime; at != nil {
			if off := time.Until(at.Time) - ahead; off.Abs() > time.Minute {
				return fmt.Errorf("its clock is off by %s", off+ahead)
			}
			return nil
		}
	}
	return fmt.Errorf("no lease yet")
}

package report

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

func TestVerdict(t *testing.T) {
	good := Outcome{Result: gitops.Result{Total: 3}, Complete: true}
	failed := func(n int) Outcome {
		return Outcome{Result: gitops.Result{Total: 3, Failed: n}, Complete: true}
	}
	deployment := func(name string) inventory.ID {
		return inventory.ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Namespace: "web", Name: name}
	}
	for _, row := range []struct {
		name    string
		summary summary
		state   syncstatus.State
		message string
	}{
		{"nothing has come", summary{}, syncstatus.State_STATE_PENDING, ""},
		{"a run is under way", summary{phase: phaseSyncing}, syncstatus.State_STATE_SYNCING, ""},
		{"a run cannot go on", summary{phase: phaseSyncing, trouble: "waiting for it"}, syncstatus.State_STATE_SYNCING, "waiting for it"},
		{"all applied, not yet healthy", summary{phase: phaseRan, outcome: good, applied: 3}, syncstatus.State_STATE_PROGRESSING, ""},
		{"all applied and healthy", summary{phase: phaseRan, outcome: good, applied: 3, ready: true}, syncstatus.State_STATE_SYNCED, ""},
		{
			"one failed", summary{phase: phaseRan, outcome: failed(1), applied: 2, ready: true, fault: "ConfigMap a (x.yaml:1): no"},
			syncstatus.State_STATE_PARTIAL, "1 of 3 objects failed: ConfigMap a (x.yaml:1): no",
		},
		{
			"all failed", summary{phase: phaseRan, outcome: failed(3), fault: "ConfigMap a: no"},
			syncstatus.State_STATE_FAILED, "3 of 3 objects failed: ConfigMap a: no",
		},
		{
			"pruning was held back", summary{phase: phaseRan, outcome: Outcome{Result: gitops.Result{HeldBack: "nothing was pruned: set allow_empty"}, Complete: true}, ready: true},
			syncstatus.State_STATE_PARTIAL, "nothing was pruned: set allow_empty",
		},
		{
			"files are at fault", summary{phase: phaseRan, outcome: Outcome{Result: gitops.Result{Total: 2}, FileErrors: 2}, applied: 2, ready: true},
			syncstatus.State_STATE_PARTIAL, "nothing is pruned until the mistakes in the repository are mended",
		},
		{
			"objects are late", summary{phase: phaseRan, outcome: good, applied: 3, late: []inventory.ID{deployment("a"), deployment("b"), deployment("c"), deployment("d")}},
			syncstatus.State_STATE_PARTIAL, "4 objects not healthy in time: Deployment web/a, Deployment web/b, Deployment web/c, and 1 more",
		},
		{
			"an object failed later", summary{phase: phaseRan, outcome: good, applied: 3, unhealthy: 1},
			syncstatus.State_STATE_PARTIAL, "1 object failed after being applied",
		},
		{
			"an object is fought over", summary{phase: phaseRan, outcome: good, applied: 3, ready: true, contests: []string{"Deployment web/a (hpa sets .spec.replicas)"}},
			syncstatus.State_STATE_PARTIAL, "somebody else keeps changing 1 object: Deployment web/a (hpa sets .spec.replicas)",
		},
		{
			"a dry run", summary{phase: phaseRan, outcome: Outcome{Complete: true, DryRun: true}},
			syncstatus.State_STATE_SUSPENDED, "dry run: nothing is applied; remove dry_run_strategy from the agent's configuration to apply",
		},
		{
			"trouble after a good run", summary{phase: phaseRan, outcome: good, applied: 3, ready: true, trouble: "trying again: boom"},
			syncstatus.State_STATE_SYNCED, "trying again: boom",
		},
		{
			"a set that cannot be taken", summary{phase: phaseRan, outcome: good, applied: 3, ready: true, refused: "too large"},
			syncstatus.State_STATE_FAILED, "too large",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			state, message := verdict(row.summary)
			require.Equal(t, row.state.String(), state.String())
			require.Equal(t, row.message, message)
		})
	}
}

package agentk

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// defaultTimeout is GitLab's default of reconcile_timeout and prune_timeout.
const defaultTimeout = time.Hour

// inventoryKey names a project's inventory.
func inventoryKey(agentID, projectID int64) string {
	return fmt.Sprintf("%d-%d", agentID, projectID)
}

// engineProject says a project's configuration in the engine's words, with the
// schema's defaults.
func engineProject(key string, p *agentcfg.ManifestProject) (gitops.Project, error) {
	project := gitops.Project{
		Key:              key,
		DefaultNamespace: p.GetDefaultNamespace(),
		Prune:            p.Prune == nil || p.GetPrune(),
		AllowEmpty:       p.GetAllowEmpty(),
		ReconcileTimeout: timeout(p.GetReconcileTimeout()),
		PruneTimeout:     timeout(p.GetPruneTimeout()),
	}
	if project.DefaultNamespace == "" {
		project.DefaultNamespace = "default"
	}
	var err error
	if project.Policy, err = pick("inventory_policy", p.GetInventoryPolicy(), map[string]inventory.Policy{
		"":                      inventory.PolicyMustMatch,
		"must_match":            inventory.PolicyMustMatch,
		"adopt_if_no_inventory": inventory.PolicyAdoptIfNoInventory,
		"adopt_all":             inventory.PolicyAdoptAll,
	}); err != nil {
		return gitops.Project{}, err
	}
	if project.DryRun, err = pick("dry_run_strategy", p.GetDryRunStrategy(), map[string]gitops.DryRun{
		"":       gitops.DryRunNone,
		"none":   gitops.DryRunNone,
		"client": gitops.DryRunClient,
		"server": gitops.DryRunServer,
	}); err != nil {
		return gitops.Project{}, err
	}
	if project.Propagation, err = pick("prune_propagation_policy", p.GetPrunePropagationPolicy(), map[string]string{
		"":           "Foreground",
		"foreground": "Foreground",
		"background": "Background",
		"orphan":     "Orphan",
	}); err != nil {
		return gitops.Project{}, err
	}
	return project, nil
}

func pick[T any](name, value string, from map[string]T) (T, error) {
	picked, ok := from[value]
	if !ok {
		return picked, fmt.Errorf("%s: unknown value %q", name, value)
	}
	return picked, nil
}

func timeout(d *durationpb.Duration) time.Duration {
	if d.AsDuration() <= 0 {
		return defaultTimeout
	}
	return d.AsDuration()
}

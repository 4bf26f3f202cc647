package agentk

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/gitops/celhealth"
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
		DefaultNamespace: defaultNamespace(p),
		Prune:            p.Prune == nil || p.GetPrune(),
		AllowEmpty:       p.GetAllowEmpty(),
		Atomic:           p.GetAtomic(),
		ReconcileTimeout: timeout(p.GetReconcileTimeout()),
		PruneTimeout:     timeout(p.GetPruneTimeout()),
		Guard:            guard(p.GetPruneGuard()),
		Ignore:           ignoreRules(p.GetIgnoreFields()),
		RecordLate:       true,
	}
	var err error
	if project.Health, err = healthRules(p.GetHealthChecks()); err != nil {
		return gitops.Project{}, err
	}
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

// healthRules compiles the checks; no checks are no rules.
func healthRules(checks []*agentcfg.HealthCheck) (gitops.HealthRules, error) {
	if len(checks) == 0 {
		return nil, nil //nolint:nilnil // the engine's word for none
	}
	list := make([]celhealth.Check, len(checks))
	for i, c := range checks {
		list[i] = celhealth.Check{
			Group: c.GetGroup(), Kind: c.GetKind(),
			Failed: c.GetFailed(), InProgress: c.GetInProgress(), Current: c.GetCurrent(),
		}
	}
	rules, err := celhealth.New(list)
	if err != nil {
		return nil, fmt.Errorf("health checks: %w", err)
	}
	return rules, nil
}

func ignoreRules(fields []*agentcfg.IgnoreFields) []gitops.IgnoreRule {
	if len(fields) == 0 {
		return nil
	}
	var rules []gitops.IgnoreRule
	for _, f := range fields {
		rules = append(rules, gitops.IgnoreRule{
			Group: f.GetGroup(), Kind: f.GetKind(), Namespace: f.GetNamespace(), Name: f.GetName(), Fields: f.GetFields(),
		})
	}
	return rules
}

// Defaults of prune_guard.
const (
	defaultGuardObjects = 10
	defaultGuardPercent = 50
)

func guard(g *agentcfg.PruneGuard) gitops.Guard {
	out := gitops.Guard{MinObjects: defaultGuardObjects, MaxPercent: defaultGuardPercent, Approved: g.GetApprovedCommit()}
	if g != nil && g.MinObjects != nil {
		out.MinObjects = max(1, int(g.GetMinObjects())) // the engine's 0 is no guard
	}
	if g != nil && g.MaxPercent != nil {
		out.MaxPercent = int(g.GetMaxPercent())
	}
	return out
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

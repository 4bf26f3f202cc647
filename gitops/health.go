package gitops

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/kas-agentk/kas/inventory"
)

// health judges a live object by the project's own rules, or else by kstatus.
func (p *Project) health(id inventory.ID, live Live, exists bool) (Health, string) {
	if p.Health != nil && exists && live.Object != nil && !live.Object.Deleting() && p.Health.Covers(id.GroupKind) {
		if u := live.Object.Unstructured(); u != nil {
			if health, message, ok := p.Health.Judge(u); ok {
				return health, message
			}
		}
	}
	return HealthOf(id, live, exists)
}

// HealthOf judges a live object by the rules of kstatus. The message says why an
// object is not current.
func HealthOf(id inventory.ID, live Live, exists bool) (Health, string) {
	switch {
	case !exists:
		return HealthNotFound, "the object does not exist"
	case !live.Object.Deleting() && alwaysCurrent(id.GroupKind):
		return HealthCurrent, ""
	case live.Object == nil:
		return HealthInProgress, "applied a moment ago"
	default:
		return live.Object.health()
	}
}

// alwaysCurrent says that existing is all that is asked of the kind.
func alwaysCurrent(kind schema.GroupKind) bool {
	return kind.Group == "" && (kind.Kind == "ConfigMap" || kind.Kind == "Secret")
}

// plainlyCurrent spares kstatus, which decodes every object by reflection, the many
// that have no status at all and whose kind has no rule of its own.
func plainlyCurrent(u *unstructured.Unstructured) bool {
	return u.GetDeletionTimestamp() == nil && u.Object["status"] == nil && status.GetLegacyConditionsFn(u) == nil
}

// terminating names what holds an object that is being deleted.
func terminating(u *unstructured.Unstructured) string {
	if finalizers := u.GetFinalizers(); len(finalizers) > 0 {
		return "being deleted, held by finalizer " + strings.Join(finalizers, ", ")
	}
	return "being deleted"
}

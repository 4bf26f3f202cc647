package gitops

import (
	"strings"

	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/kas-agentk/kas/inventory"
)

// health judges a live object by the project's own rules, or else by kstatus.
func (p *Project) health(id inventory.ID, live Live, exists bool) (Health, string) {
	if p.Health != nil && exists && live.Object != nil && live.Object.GetDeletionTimestamp() == nil {
		if health, message, ok := p.Health.Judge(live.Object); ok {
			return health, message
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
	case live.Object == nil && alwaysCurrent(id):
		return HealthCurrent, ""
	case live.Object == nil:
		return HealthInProgress, "applied a moment ago"
	case plainlyCurrent(id, live):
		return HealthCurrent, ""
	}
	res, err := status.Compute(live.Object)
	if err != nil {
		return HealthUnknown, "its health cannot be computed: " + err.Error()
	}
	switch res.Status {
	case status.CurrentStatus:
		return HealthCurrent, ""
	case status.InProgressStatus:
		return HealthInProgress, res.Message
	case status.FailedStatus:
		return HealthFailed, res.Message
	case status.TerminatingStatus:
		return HealthTerminating, terminating(live)
	default:
		return HealthUnknown, res.Message
	}
}

// alwaysCurrent says that existing is all that is asked of the kind.
func alwaysCurrent(id inventory.ID) bool {
	return id.GroupKind.Group == "" && (id.GroupKind.Kind == "ConfigMap" || id.GroupKind.Kind == "Secret")
}

// plainlyCurrent spares kstatus, which decodes every object by reflection, the many
// that have no status at all and whose kind has no rule of its own.
func plainlyCurrent(id inventory.ID, live Live) bool {
	if live.Object.GetDeletionTimestamp() != nil {
		return false
	}
	return alwaysCurrent(id) ||
		live.Object.Object["status"] == nil && status.GetLegacyConditionsFn(live.Object) == nil
}

// terminating names what holds an object that is being deleted.
func terminating(live Live) string {
	if finalizers := live.Object.GetFinalizers(); len(finalizers) > 0 {
		return "being deleted, held by finalizer " + strings.Join(finalizers, ", ")
	}
	return "being deleted"
}

package status

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// snapshot is one project, taken out of the store: it may be rendered without its lock.
type snapshot struct {
	key          Key
	agentName    string
	connected    bool
	present      bool
	wasConnected bool
	updatedAt    time.Time
	source       *syncstatus.ProjectStatus
	last         *syncstatus.ProjectStatus
	report       reported
	objects      []*syncstatus.ObjectStatus // in no order
	excess       int
}

// reported is the header of the newest report; the zero value where there is none.
type reported struct {
	commit, applied, message string
	state                    syncstatus.State
	appliedAt, readyAt       *timestamppb.Timestamp
	ranAt                    *timestamppb.Timestamp
	suspension               *syncstatus.Suspension
	heldPrune                *syncstatus.HeldPrune
}

// render puts a project's status together, with or without its objects.
func render(s snapshot, withObjects bool) *syncstatus.ProjectStatus {
	if s.last != nil {
		return renderLast(s, withObjects)
	}
	counts, unhealthy := count(s.objects)
	source := s.source
	facts := Facts{
		Connected:      s.connected,
		WasConnected:   s.wasConnected,
		Present:        s.present,
		GitFailed:      source.GetState() == syncstatus.State_STATE_FAILED,
		GitMessage:     source.GetMessage(),
		Wanted:         source.GetWantedCommit(),
		Sent:           source.GetTimes().GetSentAt() != nil,
		FileErrors:     len(source.GetErrors()),
		FirstError:     firstError(source.GetErrors()),
		Reported:       s.report.state,
		ReportedCommit: s.report.commit,
		Applied:        s.report.applied,
		AgentMessage:   s.report.message,
		Objects:        len(s.objects),
		Failed:         int(counts.GetFailed()),
		Unhealthy:      unhealthy,
	}
	out := &syncstatus.ProjectStatus{
		AgentId:       s.key.AgentID,
		AgentName:     s.agentName,
		ProjectId:     s.key.ProjectID,
		ProjectPath:   source.GetProjectPath(),
		Ref:           source.GetRef(),
		WantedCommit:  source.GetWantedCommit(),
		AppliedCommit: s.report.applied,
		Times: &syncstatus.Times{
			DetectedAt: source.GetTimes().GetDetectedAt(),
			SentAt:     source.GetTimes().GetSentAt(),
		},
		Counts:    counts,
		Errors:    source.GetErrors(),
		Connected: s.connected,
		UpdatedAt: timestamppb.New(s.updatedAt),

		Suspension: s.report.suspension,
		HeldPrune:  s.report.heldPrune,
	}
	out.Times.RanAt = s.report.ranAt
	out.State, out.Message = State(facts)
	if s.report.commit == source.GetWantedCommit() {
		out.Times.AppliedAt, out.Times.ReadyAt = s.report.appliedAt, s.report.readyAt
	}
	if s.excess > 0 {
		out.Message = join(out.Message, fmt.Sprintf("%d more objects are not shown", s.excess))
	}
	if withObjects {
		out.Objects = slices.SortedFunc(slices.Values(s.objects), byID)
	}
	return out
}

// renderLast is render where all that is known is what another replica said last.
func renderLast(s snapshot, withObjects bool) *syncstatus.ProjectStatus {
	out := proto.CloneOf(s.last)
	if !s.connected {
		lost(out, s.present)
	}
	out.UpdatedAt = timestamppb.New(s.updatedAt)
	if !withObjects {
		out.Objects = nil
	}
	return out
}

// count sums objects up by action. unhealthy leaves out those that were left alone on
// purpose; the count of the same name does not.
func count(objects []*syncstatus.ObjectStatus) (counts *syncstatus.Counts, unhealthy int) {
	counts = &syncstatus.Counts{Total: uint32(len(objects))}
	for _, o := range objects {
		switch o.GetAction() {
		case syncstatus.Action_ACTION_CREATED:
			counts.Created++
		case syncstatus.Action_ACTION_CONFIGURED:
			counts.Configured++
		case syncstatus.Action_ACTION_UNCHANGED:
			counts.Unchanged++
		case syncstatus.Action_ACTION_PRUNED, syncstatus.Action_ACTION_PRUNING:
			counts.Pruned++
		case syncstatus.Action_ACTION_SKIPPED:
			counts.Skipped++
		case syncstatus.Action_ACTION_FAILED:
			counts.Failed++
		}
		if isUnhealthy(o) {
			counts.Unhealthy++
			if o.GetAction() != syncstatus.Action_ACTION_SKIPPED {
				unhealthy++
			}
		}
	}
	return counts, unhealthy
}

func isUnhealthy(o *syncstatus.ObjectStatus) bool {
	switch o.GetHealth() {
	case syncstatus.Health_HEALTH_UNSPECIFIED, syncstatus.Health_HEALTH_CURRENT:
		return false
	}
	return o.GetAction() != syncstatus.Action_ACTION_PRUNED
}

// firstError says where the first mistake is, and how many there are.
func firstError(errors []*syncstatus.FileError) string {
	if len(errors) == 0 {
		return ""
	}
	first := errors[0]
	var text string
	switch {
	case first.GetPath() == "":
		text = first.GetMessage()
	case first.GetLine() == 0:
		text = fmt.Sprintf("%s: %s", first.GetPath(), first.GetMessage())
	default:
		text = fmt.Sprintf("%s:%d: %s", first.GetPath(), first.GetLine(), first.GetMessage())
	}
	if len(errors) > 1 {
		text += fmt.Sprintf(" (the first of %d mistakes)", len(errors))
	}
	return text
}

func byID(a, b *syncstatus.ObjectStatus) int {
	x, y := a.GetId(), b.GetId()
	return cmp.Or(
		cmp.Compare(x.GetNamespace(), y.GetNamespace()),
		cmp.Compare(x.GetGroup(), y.GetGroup()),
		cmp.Compare(x.GetKind(), y.GetKind()),
		cmp.Compare(x.GetName(), y.GetName()),
	)
}

package report

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/inventory"
)

const (
	// maxMessage is the longest message, in bytes, that goes into a report: an
	// admission webhook may answer with a book.
	maxMessage = 4 << 10
	// fieldOverhead is at least what a nested message's tag and length take.
	fieldOverhead = 6
)

// chunk cuts a report into messages of at most grpctool.ChunkSize. All carry the
// header, and all but the last say that more follow.
func chunk(header *agentrpc.Report, objects []*syncstatus.ObjectStatus, removed []*syncstatus.ObjectID) []*agentrpc.Report {
	headerSize := proto.Size(header)
	current := proto.CloneOf(header)
	size := headerSize
	var reports []*agentrpc.Report
	room := func(m proto.Message) {
		n := proto.Size(m) + fieldOverhead
		if size+n > grpctool.ChunkSize && size > headerSize {
			current.More = true
			reports = append(reports, current)
			current, size = proto.CloneOf(header), headerSize
		}
		size += n
	}
	for _, o := range objects {
		room(o)
		current.Objects = append(current.Objects, o)
	}
	for _, id := range removed {
		room(id)
		current.Removed = append(current.Removed, id)
	}
	return append(reports, current)
}

func objectID(id inventory.ID) *syncstatus.ObjectID {
	return &syncstatus.ObjectID{Group: id.GroupKind.Group, Kind: id.GroupKind.Kind, Namespace: id.Namespace, Name: id.Name}
}

func objectStatus(s gitops.ObjectStatus) *syncstatus.ObjectStatus {
	return &syncstatus.ObjectStatus{
		Id:         objectID(s.ID),
		Version:    s.Version,
		Action:     actions[s.Action],
		Health:     healths[s.Health],
		Message:    Clip(s.Message),
		SourcePath: s.Position.Path,
		SourceLine: uint32(max(0, s.Position.Line)),
		Contest:    contest(s.Contest),
	}
}

// valid makes a text fit to be sent: protobuf wants valid UTF-8.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// Clip makes a message fit to be sent, and people want an end.
func Clip(message string) string {
	message = valid(message)
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "…"
}

// actions and healths say the engine's words in the protocol's.
var (
	actions = map[gitops.Action]syncstatus.Action{
		gitops.ActionPending:    syncstatus.Action_ACTION_PENDING,
		gitops.ActionCreated:    syncstatus.Action_ACTION_CREATED,
		gitops.ActionConfigured: syncstatus.Action_ACTION_CONFIGURED,
		gitops.ActionUnchanged:  syncstatus.Action_ACTION_UNCHANGED,
		gitops.ActionPruned:     syncstatus.Action_ACTION_PRUNED,
		gitops.ActionSkipped:    syncstatus.Action_ACTION_SKIPPED,
		gitops.ActionFailed:     syncstatus.Action_ACTION_FAILED,
		gitops.ActionPruning:    syncstatus.Action_ACTION_PRUNING,
	}
	healths = map[gitops.Health]syncstatus.Health{
		gitops.HealthUnknown:     syncstatus.Health_HEALTH_UNKNOWN,
		gitops.HealthInProgress:  syncstatus.Health_HEALTH_IN_PROGRESS,
		gitops.HealthCurrent:     syncstatus.Health_HEALTH_CURRENT,
		gitops.HealthFailed:      syncstatus.Health_HEALTH_FAILED,
		gitops.HealthTerminating: syncstatus.Health_HEALTH_TERMINATING,
		gitops.HealthNotFound:    syncstatus.Health_HEALTH_NOT_FOUND,
	}
)

package status

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// What is kept of one project's objects is bounded; what goes beyond is only counted.
const (
	MaxObjects = 100_000
	// maxObjectBytes bounds the objects' encoded size, together.
	maxObjectBytes = 128 << 20
)

// Key is one manifest project of one agent, as the agent's configuration names it.
type Key struct {
	AgentID   int64
	ProjectID string
}

// objectKey is an ObjectID that can be compared.
type objectKey struct {
	group, kind, namespace, name string
}

func keyOf(id *syncstatus.ObjectID) objectKey {
	return objectKey{id.GetGroup(), id.GetKind(), id.GetNamespace(), id.GetName()}
}

// project is the newest of everything that came in about one manifest project. The
// messages in it are shared and never changed.
type project struct {
	key          Key
	agentName    string
	wasConnected bool
	// connectedSince is when its newest stream was opened; superseded: another replica has a
	// newer one, so this one is dead and does not know it yet.
	connectedSince time.Time
	superseded     bool
	heard          bool      // the agent has reported since then
	offlineSince   time.Time // zero while a stream is open
	updatedAt      time.Time
	// silent: other replicas may know better, so nobody is told of it. silentSince is when
	// that began, or was found to be so last.
	silent      bool
	silentSince time.Time
	// last is what another replica said last, where this one took over with nothing to say.
	last *syncstatus.ProjectStatus

	source *syncstatus.ProjectStatus // as push told it; nil: not yet
	report *agentrpc.Report          // the newest whole one's header; nil: none yet
	// arrived is what has been measured of it.
	arrived arrived
	// staged is a report whose last part has not come yet.
	staged  *staged
	objects map[objectKey]*syncstatus.ObjectStatus
	bytes   int // encoded size of objects
	excess  int // objects that were not kept
}

// staged gathers the parts of one report.
type staged struct {
	reset   bool
	objects []*syncstatus.ObjectStatus
	removed []*syncstatus.ObjectID
	bytes   int
	lost    int
}

func (s *staged) add(part *agentrpc.Report) {
	for _, object := range part.GetObjects() {
		size := proto.Size(object)
		if len(s.objects) >= MaxObjects || s.bytes+size > maxObjectBytes {
			s.lost++
			continue
		}
		s.objects = append(s.objects, object)
		s.bytes += size
	}
	room := max(0, MaxObjects-len(s.removed))
	s.removed = append(s.removed, part.GetRemoved()[:min(room, len(part.GetRemoved()))]...)
}

// take merges a report, or keeps it until the rest of it has come. It tells whether
// anything is new. Every part of a report carries its header.
func (p *project) take(report *agentrpc.Report) bool {
	if p.staged == nil || report.GetReset_() != p.staged.reset {
		// A report of another sort: the rest of the one before will never come.
		p.staged = &staged{reset: report.GetReset_()}
	}
	p.staged.add(report)
	if report.GetMore() {
		return false
	}
	staged := p.staged
	p.staged = nil
	if p.report != nil && blind(report) {
		// What it said before stands, but for who suspended it.
		p.report = proto.CloneOf(p.report)
		p.report.State, p.report.Message, p.report.Suspension = report.GetState(), report.GetMessage(), report.GetSuspension()
		return true
	}
	p.merge(staged)
	p.report = &agentrpc.Report{
		CommitId:        report.GetCommitId(),
		AppliedCommitId: report.GetAppliedCommitId(),
		State:           report.GetState(),
		Message:         report.GetMessage(),
		AppliedAt:       report.GetAppliedAt(),
		ReadyAt:         report.GetReadyAt(),
		RanAt:           report.GetRanAt(),
		Suspension:      report.GetSuspension(),
		HeldPrune:       report.GetHeldPrune(),
	}
	return true
}

// blind says that the agent was started while the project is suspended, and has looked at
// nothing yet.
func blind(report *agentrpc.Report) bool {
	return report.GetState() == syncstatus.State_STATE_SUSPENDED && report.GetCommitId() == ""
}

func (p *project) merge(s *staged) {
	if s.reset || p.objects == nil {
		p.objects, p.bytes, p.excess = make(map[objectKey]*syncstatus.ObjectStatus), 0, 0
	}
	for _, id := range s.removed {
		key := keyOf(id)
		p.bytes -= proto.Size(p.objects[key])
		delete(p.objects, key)
	}
	for _, object := range s.objects {
		key, size := keyOf(object.GetId()), proto.Size(object)
		before, known := p.objects[key]
		if known {
			size -= proto.Size(before)
		}
		if (!known && len(p.objects) >= MaxObjects) || p.bytes+size > maxObjectBytes {
			p.excess++
			continue
		}
		p.objects[key] = object
		p.bytes += size
	}
	p.excess += s.lost
}

package report

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// Stream sends reports, the first of them whole, until ctx ends or send fails; it
// returns ctx's or send's error. One Stream may run at a time.
func (r *Reporter) Stream(ctx context.Context, send func(*agentrpc.Report) error) error {
	r.attach()
	defer r.detach()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		}
		for _, report := range r.take() {
			if err := send(report); err != nil {
				return err
			}
		}
		if err := r.pause(ctx); err != nil {
			return err
		}
	}
}

// pause lets changes gather.
func (r *Reporter) pause(ctx context.Context) error {
	timer := r.cfg.Clock.NewTimer(r.cfg.Interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C():
		return nil
	}
}

func (r *Reporter) attach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attached, r.reset = true, true
	r.changedLocked()
}

func (r *Reporter) detach() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attached, r.changed = false, false
	for _, e := range r.dirty {
		e.dirty = false
	}
	r.dirty = nil
	clear(r.removed)
	select {
	case <-r.wake:
	default:
	}
}

// take returns what the stream has not taken yet; nothing, if that is nothing.
func (r *Reporter) take() []*agentrpc.Report {
	header, entries, removed := r.takeStatus()
	if header == nil {
		return nil
	}
	objects := make([]*syncstatus.ObjectStatus, 0, len(entries))
	for _, status := range entries {
		objects = append(objects, objectStatus(status))
	}
	ids := make([]*syncstatus.ObjectID, 0, len(removed))
	for _, id := range removed {
		ids = append(ids, objectID(id))
	}
	return chunk(header, objects, ids)
}

// takeStatus copies, under the lock, what take converts without it.
func (r *Reporter) takeStatus() (*agentrpc.Report, []gitops.ObjectStatus, []inventory.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.changed {
		return nil, nil, nil
	}
	header := r.headerLocked()
	var statuses []gitops.ObjectStatus
	if r.reset {
		for _, e := range r.objects {
			statuses = append(statuses, e.status)
		}
	} else {
		for _, e := range r.dirty {
			if !e.gone {
				statuses = append(statuses, e.status)
			}
		}
	}
	slices.SortFunc(statuses, func(a, b gitops.ObjectStatus) int { return compare(a.ID, b.ID) })
	var removed []inventory.ID
	if !r.reset {
		for id := range r.removed {
			removed = append(removed, id)
		}
		slices.SortFunc(removed, compare)
	}
	for _, e := range r.dirty {
		e.dirty = false
	}
	r.dirty, r.reset, r.changed = nil, false, false
	clear(r.removed)
	return header, statuses, removed
}

func (r *Reporter) headerLocked() *agentrpc.Report {
	s := r.summary
	s.refused, s.suspended = r.refused, r.suspended
	s.unhealthy = r.healths[gitops.HealthFailed]
	s.applied = r.actions[gitops.ActionCreated] + r.actions[gitops.ActionConfigured] + r.actions[gitops.ActionUnchanged]
	if s.outcome.Failed > 0 {
		s.fault = r.firstFaultLocked()
	}
	s.late, s.held = r.lateLocked()
	s.contests = r.contestsLocked()
	state, message := verdict(s)
	report := &agentrpc.Report{
		CommitId:        r.commit,
		AppliedCommitId: r.applied,
		State:           state,
		Message:         Clip(message),
		AppliedAt:       timestamp(r.appliedAt),
		ReadyAt:         timestamp(r.readyAt),
		RanAt:           timestamp(r.ranAt),
		Reset_:          r.reset,
		HeldPrune:       heldPrune(r.commit, &s),
		Traceparent:     r.traceparentLocked(state),
	}
	if s.suspended != nil {
		report.Suspension = &syncstatus.Suspension{By: Clip(s.suspended.By), At: timestamp(s.suspended.At)}
	}
	return report
}

// shownHeld is how many objects of a held prune are shown.
const shownHeld = 100

// heldPrune is what waits for a person's approval; nil: nothing does.
func heldPrune(commit string, s *summary) *syncstatus.HeldPrune {
	held := s.outcome.Held
	if s.phase != phaseRan || len(held) == 0 {
		return nil
	}
	out := &syncstatus.HeldPrune{CommitId: commit, Reason: Clip(s.outcome.HeldBack), Total: uint32(len(held))}
	for _, id := range held[:min(len(held), shownHeld)] {
		out.Objects = append(out.Objects, objectID(id))
	}
	return out
}

// lateLocked parts what is late into objects that are not healthy and deletions that
// have not ended, and says of the first of these what holds them.
func (r *Reporter) lateLocked() (late []inventory.ID, held []string) {
	for _, id := range r.summary.late {
		e, ok := r.objects[id]
		if !ok || e.status.Action != gitops.ActionPruning {
			late = append(late, id)
			continue
		}
		text := describe(id)
		if e.status.Message != "" {
			text += ", " + e.status.Message
		}
		held = append(held, text)
	}
	return late, held
}

// firstFaultLocked says what failed first in the order of the repository. What was
// skipped because of a failure comes after what failed.
func (r *Reporter) firstFaultLocked() string {
	var first *gitops.ObjectStatus
	for _, e := range r.objects {
		// What left the repository and is kept is no fault.
		kept := e.status.Action == gitops.ActionSkipped && e.status.Position == manifests.Position{}
		if kept || e.status.Action != gitops.ActionFailed && e.status.Action != gitops.ActionSkipped {
			continue
		}
		if first == nil || compareFaults(&e.status, first) < 0 {
			first = &e.status
		}
	}
	if first == nil {
		return ""
	}
	text := describe(first.ID)
	if first.Position.Path != "" {
		text += " (" + first.Position.String() + ")"
	}
	if first.Message != "" {
		text += ": " + first.Message
	}
	return text
}

// compareFaults orders faults.
func compareFaults(a, b *gitops.ObjectStatus) int {
	return cmp.Or(
		cmp.Compare(b.Action, a.Action), // failed before skipped
		strings.Compare(a.Position.Path, b.Position.Path),
		cmp.Compare(a.Position.Line, b.Position.Line),
		compare(a.ID, b.ID),
	)
}

func compare(a, b inventory.ID) int {
	return cmp.Or(
		strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.GroupKind.Group, b.GroupKind.Group),
		strings.Compare(a.GroupKind.Kind, b.GroupKind.Kind),
		strings.Compare(a.Name, b.Name),
	)
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

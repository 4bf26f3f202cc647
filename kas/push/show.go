package push

import (
	"context"
	"fmt"
	"time"

	tracecodes "go.opentelemetry.io/otel/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// showTimed shows a view. An agent that took long to read is checked again before it is
// sent anything newer: it may have lost its access meanwhile.
func (s *stream) showTimed(ctx context.Context, v *view) error {
	began := s.server.clock.Now()
	if err := s.show(ctx, v); err != nil {
		return err
	}
	if s.server.clock.Since(began) < s.server.config.RecheckPeriod {
		return nil
	}
	return s.apply(ctx, s.recheck(ctx))
}

// show tells the Status of a view, and sends its set unless that was sent last.
func (s *stream) show(ctx context.Context, v *view) error {
	s.seen = v
	if v.built == nil || v.built == s.sent {
		s.tell(v)
		return nil
	}
	late := s.sent != nil // or it was detected while the agent was away
	s.sentAt = time.Time{}
	s.tell(v)
	began := s.server.clock.Now()
	if err := s.send(ctx, v.built); err != nil {
		return err
	}
	s.sentAt = s.server.clock.Now()
	s.server.metrics.sending.Observe(s.sentAt.Sub(began).Seconds())
	if late && !v.built.detectedAt.IsZero() {
		s.server.metrics.latency.Observe(s.sentAt.Sub(v.built.detectedAt).Seconds())
	}
	s.tell(v)
	return nil
}

// tell tells the Status of a view.
func (s *stream) tell(v *view) {
	update := &syncstatus.ProjectStatus{
		ProjectPath:  s.project.GitalyRepository.GlProjectPath,
		Ref:          v.ref.String(),
		WantedCommit: v.wanted,
		Times:        &syncstatus.Times{},
		Message:      explain(v.problem),
	}
	if v.problem != nil {
		update.State = syncstatus.State_STATE_FAILED
	}
	if !v.detectedAt.IsZero() {
		update.Times.DetectedAt = timestamppb.New(v.detectedAt)
	}
	if b := v.built; b != nil && b.commitID == v.wanted {
		update.Errors = append(update.Errors, b.errors...)
		if update.Message == "" {
			update.Message = b.note
		}
		if b == s.sent && !s.sentAt.IsZero() {
			update.Times.SentAt = timestamppb.New(s.sentAt)
		}
	}
	s.server.status.Source(s.agent, s.wish.projectID, update)
}

// send sends a whole set: what the agent lacks of it, the list, and the trailer.
func (s *stream) send(ctx context.Context, b *built) error {
	mode, base := agentrpc.Mode_MODE_FULL, ""
	var fresh *delta
	switch {
	case s.sent != nil:
		mode, base = agentrpc.Mode_MODE_DELTA, s.sent.commitID
		fresh = s.feed.delta(s.sent, b)
	case s.wish.commitID != "":
		mode, base = agentrpc.Mode_MODE_DELTA, s.wish.commitID
		fresh = newDelta(&b.set, s.wish.held)
	default:
		fresh = s.feed.delta(nil, b)
	}
	header := &agentrpc.Header{Mode: mode, BaseCommitId: base}
	span := s.tracePush(ctx, b, fresh, header)
	defer span.End()
	s.story.begin(b, header.GetTraceparent())
	if err := s.sendSet(b, fresh, header); err != nil {
		span.SetStatus(tracecodes.Error, err.Error())
		return err
	}
	s.sent, s.wish.held = b, nil // the set's own digests are what it holds now
	m := s.server.metrics
	m.sets.WithLabelValues(map[agentrpc.Mode]string{agentrpc.Mode_MODE_FULL: "full", agentrpc.Mode_MODE_DELTA: "delta"}[mode]).Inc()
	m.objects.Add(float64(fresh.objects))
	m.bytes.Add(float64(fresh.bytes))
	s.story.sent(b, fresh)
	return nil
}

// sendSet sends the messages of a set, whose header it completes.
func (s *stream) sendSet(b *built, fresh *delta, header *agentrpc.Header) error {
	header.CommitId, header.Ref = b.commitID, b.ref
	header.ProjectId, header.ProjectPath = s.project.ProjectID, s.project.GitalyRepository.GlProjectPath
	header.DetectedAt = timestamppb.New(b.detectedAt)
	first := []*agentrpc.ConnectResponse{{Message: &agentrpc.ConnectResponse_Header{Header: header}}}
	for _, part := range [][]*agentrpc.ConnectResponse{first, fresh.messages, b.refs(), {b.trailer}} {
		for _, message := range part {
			if err := s.rpc.Send(message); err != nil {
				return fmt.Errorf("send the set of commit %s: %w", b.commitID, err)
			}
		}
	}
	return nil
}

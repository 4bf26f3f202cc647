package push

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/manifests"
)

// maxTraced is how many reports about one set are spans, whatever the agent says.
const maxTraced = 32

// parse makes the set of a revision, as a span, whose trace context it returns.
func (f *feed) parse(ctx context.Context, revision gitrepo.Revision) (manifests.Set, string, error) {
	if !f.feeds.tracing.Enabled() {
		set, err := f.read(ctx, revision.CommitID)
		return set, "", err
	}
	ctx, span := f.feeds.tracing.Start(tracing.WithTraceparent(ctx, revision.Traceparent), "parse",
		tracing.Project(f.repo.Repository.GlProjectPath), tracing.Commit(revision.CommitID))
	defer span.End()
	set, err := f.read(ctx, revision.CommitID)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return set, "", err
	}
	span.SetAttributes(attribute.Int("files", len(f.files)), tracing.Objects(len(set.Objects)), attribute.Int("mistakes", len(set.Errors)))
	return set, tracing.Traceparent(ctx), nil
}

// tracePush starts the span of a set that is about to be sent, and names it in the header:
// what the agent does with the set belongs there. The set of a commit that the agent has
// already is no news, and no span.
func (s *stream) tracePush(ctx context.Context, b *built, fresh *delta, header *agentrpc.Header) trace.Span {
	if b.traceparent == "" || s.sent == nil && s.wish.commitID == b.commitID {
		return noop.Span{}
	}
	ctx, span := s.server.feeds.tracing.Start(tracing.WithTraceparent(ctx, b.traceparent), "push set",
		tracing.AgentID(s.agent.AgentID), attribute.String("agent", s.agent.AgentName),
		tracing.Project(s.project.GitalyRepository.GlProjectPath), tracing.Commit(b.commitID),
		tracing.Objects(len(b.set.Objects)), attribute.Int("objects_sent", fresh.objects), attribute.Int("bytes_sent", fresh.bytes))
	header.Traceparent = tracing.Traceparent(ctx)
	return span
}

// traceReport makes a report that says that it is of the set's trace a span, and has it name
// that span for what is done with it; others name none.
func (s *stream) traceReport(ctx context.Context, r *agentrpc.Report) {
	theirs := r.GetTraceparent()
	if theirs == "" || r.GetMore() {
		return // the last part says it again
	}
	r.Traceparent = ""
	ctx = tracing.WithTraceparent(ctx, theirs)
	if !trace.SpanContextFromContext(ctx).IsValid() || !s.story.traces(theirs) {
		return
	}
	ctx, span := s.server.feeds.tracing.Start(ctx, "report",
		tracing.AgentID(s.agent.AgentID), tracing.Commit(r.GetCommitId()), attribute.String("state", r.GetState().String()))
	r.Traceparent = tracing.Traceparent(ctx)
	span.End()
}

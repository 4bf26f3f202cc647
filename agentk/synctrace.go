package agentk

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/tracing"
)

// maxPhases is how many phases of a run have spans of their own: a commit whose objects
// depend on one another, one by one, has as many phases as objects.
const maxPhases = 64

// syncTrace is what is traced of one set that kas traces: how it was received, its first
// run with its phases, and the wait for the health of what that applied. Further runs of
// the same set (what failed is tried again, somebody else has changed objects) are not
// traced. It belongs to the loop; nil traces nothing.
type syncTrace struct {
	reporter *report.Reporter
	// start starts a span below that of the sync.
	start func(name string, options ...trace.SpanStartOption) trace.Span
	sync  trace.Span
	// phase of the run, and wait for health, if they are under way.
	phase, health trace.Span
	phases        int
}

// traceOf begins to trace a set; nil: it is not traced, or was before.
func (w *worker) traceOf(ctx context.Context, set *desired.Set) *syncTrace {
	if !w.tracing.Enabled() || set == w.attended {
		return nil
	}
	w.attended = set
	ctx = tracing.WithTraceparent(ctx, set.Traceparent)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	began := trace.WithTimestamp(set.Began)
	ctx, span := w.tracing.Tracer().Start(ctx, "sync", began, trace.WithAttributes(w.about(set)...))
	if !span.IsRecording() {
		return nil
	}
	t := &syncTrace{reporter: w.reporter, start: startBelow(ctx, w.tracing), sync: span}
	t.start("receive", began).End(trace.WithTimestamp(set.Received))
	w.reporter.Traced(set.Commit, tracing.Traceparent(ctx))
	return t
}

// startBelow starts spans below that of ctx.
func startBelow(ctx context.Context, t *tracing.Tracing) func(string, ...trace.SpanStartOption) trace.Span {
	return func(name string, options ...trace.SpanStartOption) trace.Span {
		_, span := t.Tracer().Start(ctx, name, options...)
		return span
	}
}

// about says which set a span is about.
func (w *worker) about(set *desired.Set) []attribute.KeyValue {
	return []attribute.KeyValue{
		tracing.AgentID(w.agentID), tracing.Project(set.ProjectPath), tracing.Commit(set.Commit), tracing.Objects(len(set.Set.Objects)),
	}
}

// observer is who is to be told of the run.
func (t *syncTrace) observer(r *report.Reporter) gitops.Observer {
	if t == nil {
		return r
	}
	return tracedRun{Reporter: r, trace: t}
}

// tracedRun is a Reporter that hears of phases.
type tracedRun struct {
	*report.Reporter
	trace *syncTrace
}

var (
	_ gitops.PhaseObserver   = tracedRun{}
	_ gitops.TroubleObserver = tracedRun{}
)

// Phase implements gitops.PhaseObserver.
func (r tracedRun) Phase(p gitops.Phase) {
	t := r.trace
	if t.phases++; t.phases > maxPhases {
		return // the last one goes on
	}
	t.endPhase()
	name := string(p.Name)
	if p.Kind != "" {
		name += " " + p.Kind
	}
	if t.phases == maxPhases {
		name = "further phases"
	}
	t.phase = t.start(name, trace.WithAttributes(tracing.Objects(p.Objects)))
}

func (t *syncTrace) endPhase() {
	if t.phase != nil {
		t.phase.End()
		t.phase = nil
	}
}

// ran ends the span of the sync, and begins to wait for health where the run has ended
// as it should.
func (t *syncTrace) ran(outcome string, result gitops.Result, err error) {
	if t == nil {
		return
	}
	t.endPhase()
	t.sync.SetAttributes(tracing.Outcome(outcome), tracing.Failed(result.Failed))
	if err != nil {
		t.sync.SetStatus(codes.Error, outcome)
		t.sync.End()
		t.reporter.Untraced()
		return
	}
	t.sync.End()
	t.health = t.start("wait for health")
}

// ready notes what the watch says of the objects' health.
func (t *syncTrace) ready(r gitops.Readiness) {
	switch {
	case t == nil:
	case r.Ready:
		t.end("ready")
	case len(r.Late) > 0:
		t.end("late")
	}
}

// end ends the trace.
func (t *syncTrace) end(outcome string) {
	if t == nil || t.health == nil {
		return
	}
	t.health.SetAttributes(tracing.Outcome(outcome))
	t.health.End()
	t.health = nil
	t.reporter.Untraced()
}

package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	keyTraceparent = "traceparent"
	// maxTraceparent is as long as a traceparent may be, in bytes: of later versions, too.
	maxTraceparent = 128
)

// Traceparent is the trace context of ctx as W3C's header "traceparent" has it, to be put
// into a message. Empty: ctx has none.
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	var one carrier
	propagation.TraceContext{}.Inject(ctx, &one)
	return one.traceparent
}

// WithTraceparent returns ctx with the trace context of a message, as another program's.
// One that is empty, or not what W3C says, changes nothing.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" || len(traceparent) > maxTraceparent {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, &carrier{traceparent})
}

// SameTrace says whether a peer's traceparent, of which nothing is known, is of the trace
// of one's own.
func SameTrace(own, theirs string) bool {
	const from, to = len("00-"), len("00-") + 2*len(trace.TraceID{})
	return len(own) >= to && len(theirs) >= to && own[from:to] == theirs[from:to]
}

// carrier holds the traceparent of a message.
type carrier struct{ traceparent string }

// Get implements propagation.TextMapCarrier.
func (c *carrier) Get(key string) string {
	if key == keyTraceparent {
		return c.traceparent
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c *carrier) Set(key, value string) {
	if key == keyTraceparent {
		c.traceparent = value
	}
}

// Keys implements propagation.TextMapCarrier.
func (c *carrier) Keys() []string { return []string{keyTraceparent} }

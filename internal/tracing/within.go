package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// StartWithin is Start where ctx is in a trace; elsewhere it starts none.
func (t *Tracing) StartWithin(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	if !t.Enabled() || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, noop.Span{}
	}
	return t.Start(ctx, name, attributes...)
}

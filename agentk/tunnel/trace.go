package tunnel

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/internal/tracing"
)

// trace has the RPC go on with the trace that kas says in its metadata: its handler finds
// it in its context. Unless the RPC may live for hours it is a span.
func (c *call) trace(ctx context.Context, md metadata.MD) context.Context {
	said := md.Get("traceparent")
	if len(said) == 0 {
		return ctx
	}
	ctx = tracing.WithTraceparent(ctx, said[0])
	if c.method.livesLong || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(c.name, "/"), "/")
	ctx, c.span = c.stream.server.cfg.Tracing.Tracer().Start(ctx, service+"/"+method, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", method)))
	return ctx
}

// endSpan ends the RPC's span, if it has one.
func (c *call) endSpan(code codes.Code) {
	if c.span == nil {
		return
	}
	c.span.SetAttributes(attribute.Int64("rpc.grpc.status_code", int64(code)))
	switch code { // as OpenTelemetry has it: what else ends an RPC is the caller's doing
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		c.span.SetStatus(otelcodes.Error, code.String())
	default:
	}
	c.span.End()
}

package tracing

import (
	"context"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// ServerOptions have a server make a span for each RPC but those that live long. They are
// not for servers that strangers reach: an RPC is a span before it is known who calls.
func (t *Tracing) ServerOptions() []grpc.ServerOption {
	if !t.Enabled() {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(t.grpcOptions()...))}
}

// DialOptions have a connection make a span for each RPC within a trace but those that live
// long, and tell the other end of the trace.
func (t *Tracing) DialOptions() []grpc.DialOption {
	if !t.Enabled() {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(within{otelgrpc.NewClientHandler(t.grpcOptions()...)})}
}

func (t *Tracing) grpcOptions() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithMeterProvider(noMetrics), otelgrpc.WithPropagators(t.propagator),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool {
			return !LivesLong(info.FullMethodName) && !isProbe(info.FullMethodName)
		}),
	}
}

// LivesLong says whether RPCs of a method ("/package.Service/Method") may live for hours.
func LivesLong(method string) bool {
	switch method {
	case agentrpc.Sync_Connect_FullMethodName, agentrpc.ReverseTunnel_Connect_FullMethodName, agentrpc.KubernetesApi_Do_FullMethodName:
		return true
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	return strings.HasPrefix(name, "Watch") || name == "ServerReflectionInfo"
}

// isProbe says whether a method asks for a sign of life: those would be most of all.
func isProbe(method string) bool { return strings.HasPrefix(method, "/grpc.health.") }

// Outgoing tells the other end of an RPC of ctx's trace: for connections that DialOptions
// are not for.
func (t *Tracing) Outgoing(ctx context.Context) context.Context {
	if !t.Enabled() || !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	md, _ := metadata.FromOutgoingContext(ctx) // it is a copy
	if md == nil {
		md = metadata.MD{}
	}
	t.propagator.Inject(ctx, mdCarrier(md))
	return metadata.NewOutgoingContext(ctx, md)
}

// mdCarrier is gRPC's metadata. What was there of another trace goes.
type mdCarrier metadata.MD

// Get implements propagation.TextMapCarrier.
func (c mdCarrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c mdCarrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys implements propagation.TextMapCarrier.
func (c mdCarrier) Keys() []string { return slices.Collect(maps.Keys(c)) }

// within is a stats.Handler of a client for RPCs that are within a trace.
type within struct{ stats.Handler }

// TagRPC implements stats.Handler.
func (w within) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return w.Handler.TagRPC(ctx, info)
}

// HandleRPC implements stats.Handler.
func (w within) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		w.Handler.HandleRPC(ctx, event)
	}
}

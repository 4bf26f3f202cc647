package tunnel

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tracing"
)

func TestServer_GoesOnWithTheTraceThatKasSays(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "agentk", Exporter: exporter})
	require.NoError(t, err)
	within := make(chan string, 1)
	svc := &service{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		within <- tracing.Traceparent(ctx)
		return nil, status.Error(codes.Unavailable, "secret")
	}}
	s := start(t, svc, func(_ *rig, cfg *Config) { cfg.Tracing = traced }).stream(t)
	call := func(number uint64, traceparent string) string {
		request := whole(t, number, unaryCall, &testpb.SimpleRequest{})
		if traceparent != "" {
			request.Start.Metadata = []*agentrpc.TunnelMetadata{{Key: "traceparent", Values: [][]byte{[]byte(traceparent)}}}
		}
		s.send(t, request)
		s.answer(t, number)
		return <-within
	}
	require.Empty(t, call(1, ""), "kas does not trace it")
	require.Empty(t, call(2, "00-nonsense"))
	require.Empty(t, exporter.GetSpans())

	got := call(3, parent)
	spans := exporter.GetSpans()
	require.Len(t, spans, 1)
	span := spans[0]
	require.Equal(t, "grpc.testing.TestService/UnaryCall", span.Name)
	require.Equal(t, "b7ad6b7169203331", span.Parent.SpanID().String())
	require.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-"+span.SpanContext.SpanID().String()+"-01", got)
	require.Contains(t, span.Attributes, attribute.Int64("rpc.grpc.status_code", int64(codes.Unavailable)))
	require.Equal(t, "Unavailable", span.Status.Description, "and not what the message says")
}

func TestServer_WhatMayLiveForHoursIsNoSpan(t *testing.T) {
	s := NewServer(Config{})
	agentrpc.RegisterKubernetesApiServer(s, agentrpc.UnimplementedKubernetesApiServer{})
	agentrpc.RegisterClusterQueryServer(s, agentrpc.UnimplementedClusterQueryServer{})
	require.True(t, s.methods[agentrpc.KubernetesApi_Do_FullMethodName].livesLong)
	require.True(t, s.methods[agentrpc.ClusterQuery_Watch_FullMethodName].livesLong)
	require.False(t, s.methods[agentrpc.ClusterQuery_List_FullMethodName].livesLong)
	require.True(t, s.unknown.livesLong, "its name is anybody's")
}

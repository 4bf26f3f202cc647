package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
)

func TestTracing_OffDoesAndCostsNothing(t *testing.T) {
	off, err := tracing.New(t.Context(), tracing.Config{Service: "test"})
	if err != nil {
		t.Fatal(err)
	}
	handler := http.NewServeMux()
	for _, traced := range []*tracing.Tracing{off, nil} {
		if traced.Enabled() {
			t.Error("it is on")
		}
		if traced.Transport(http.DefaultTransport) != http.DefaultTransport || traced.Handler(handler) != http.Handler(handler) {
			t.Error("HTTP is not as it was")
		}
		if len(traced.ServerOptions())+len(traced.DialOptions()) > 0 {
			t.Error("gRPC is not as it was")
		}
		ctx := t.Context()
		allocated := testing.AllocsPerRun(100, func() {
			started, span := traced.Start(ctx, "a span", attribute.Int("files", 3), attribute.String("commit", "c"))
			span.End()
			if started != ctx || tracing.Traceparent(started) != "" {
				t.Error("there is a span")
			}
		})
		if allocated > 0 {
			t.Errorf("a span that is none allocates %g times", allocated)
		}
		if _, span := traced.Tracer().Start(ctx, "a span"); span.IsRecording() {
			t.Error("the tracer traces")
		}
		if err := traced.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// recorded returns a Tracing, and what it has recorded so far.
func recorded(t *testing.T) (*tracing.Tracing, func() []sdktrace.ReadOnlySpan) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "test", Exporter: exporter})
	if err != nil {
		t.Fatal(err)
	}
	return traced, func() []sdktrace.ReadOnlySpan { return exporter.GetSpans().Snapshots() }
}

func TestTraceparent_CarriesATraceToAnotherProgram(t *testing.T) {
	here, _ := recorded(t)
	there, spans := recorded(t)
	ctx, span := here.Start(t.Context(), "here")
	defer span.End()
	message := tracing.Traceparent(ctx)
	_, joined := there.Start(tracing.WithTraceparent(t.Context(), message), "there")
	joined.End()
	got := spans()[0]
	if got.Parent().SpanID() != span.SpanContext().SpanID() || got.SpanContext().TraceID() != span.SpanContext().TraceID() {
		t.Errorf("%q led to %v", message, got.Parent())
	}
	if own := tracing.Traceparent(trace.ContextWithSpan(t.Context(), joined)); !tracing.SameTrace(message, own) || own == message {
		t.Errorf("%q and %q are not of one trace", message, own)
	}
	_, other := here.Start(t.Context(), "another")
	defer other.End()
	if tracing.SameTrace(message, tracing.Traceparent(trace.ContextWithSpan(t.Context(), other))) {
		t.Error("another trace is the same")
	}
	if tracing.SameTrace("", "") || tracing.SameTrace(message, "") || tracing.SameTrace("", message) {
		t.Error("none is the same as one")
	}
}

const aTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestWithTraceparent_TakesW3CAlone(t *testing.T) {
	if got := tracing.Traceparent(tracing.WithTraceparent(t.Context(), aTraceparent)); got != aTraceparent {
		t.Errorf("got %q", got)
	}
	for _, wrong := range []string{
		"", "x", strings.ToUpper(aTraceparent), aTraceparent + "-more", aTraceparent[:54], "ff" + aTraceparent[2:],
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"01" + aTraceparent[2:] + "-" + strings.Repeat("x", 1000),
	} {
		if ctx := tracing.WithTraceparent(t.Context(), wrong); ctx != t.Context() {
			t.Errorf("%q was taken", wrong)
		}
	}
}

func FuzzWithTraceparent(f *testing.F) {
	f.Add(aTraceparent)
	f.Add("01" + aTraceparent[2:] + "-more")
	f.Fuzz(func(t *testing.T, s string) {
		ctx := tracing.WithTraceparent(t.Context(), s)
		again := tracing.Traceparent(ctx)
		if (ctx == t.Context()) != (again == "") {
			t.Errorf("%q became %q", s, again)
		}
		if again != "" && (len(again) != len(aTraceparent) || !tracing.SameTrace(s, again)) {
			t.Errorf("%q became %q", s, again)
		}
	})
}

func TestGRPC_AnRPCIsOneTraceAtBothEnds(t *testing.T) {
	traced, spans := recorded(t)
	client := railsrpc.NewNotificationsClient(serve(t, traced))
	call := func(ctx context.Context) {
		t.Helper()
		if _, err := client.GitPushEvent(ctx, &railsrpc.GitPushEventRequest{}); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
	call(t.Context())
	testkit.Eventually(t, func() error { // the server's span ends when it has answered
		if got := spans(); len(got) != 1 || got[0].SpanKind() != trace.SpanKindServer || got[0].Parent().IsValid() {
			return listed("outside of a trace there are", got)
		}
		return nil
	})

	ctx, above := traced.Start(t.Context(), "above")
	call(ctx)
	testkit.Eventually(t, func() error {
		var atClient, atServer sdktrace.ReadOnlySpan
		for _, one := range spans()[1:] {
			if one.SpanKind() == trace.SpanKindClient {
				atClient = one
			} else {
				atServer = one
			}
		}
		if atClient == nil || atServer == nil || atClient.Parent().SpanID() != above.SpanContext().SpanID() ||
			atServer.Parent().SpanID() != atClient.SpanContext().SpanID() {
			return listed("there are", spans())
		}
		return nil
	})
}

func TestGRPC_WatchesAndProbesAreNoSpans(t *testing.T) {
	traced, spans := recorded(t)
	conn := serve(t, traced)
	ctx, above := traced.Start(t.Context(), "above")
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	watch, err := railsrpc.NewSyncStatusClient(conn).Watch(ctx, &railsrpc.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	// Were they spans, they would have ended before this one begins.
	if _, err := railsrpc.NewNotificationsClient(conn).GitPushEvent(t.Context(), &railsrpc.GitPushEventRequest{}); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	above.End()
	testkit.Eventually(t, func() error {
		if len(spans()) < 2 {
			return errors.New("not all have ended")
		}
		return nil
	})
	for _, one := range spans() {
		if one.Name() != "above" && one.Name() != "railsrpc.Notifications/GitPushEvent" {
			t.Error(listed("there are", spans()))
		}
	}
}

func TestOutgoing_ReplacesAnotherTraceInMetadata(t *testing.T) {
	traced, _ := recorded(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", aTraceparent, "kas-thing", "x")
	if traced.Outgoing(ctx) != ctx {
		t.Error("without a trace metadata changes")
	}
	ctx, span := traced.Start(ctx, "a span")
	defer span.End()
	md, _ := metadata.FromOutgoingContext(traced.Outgoing(ctx))
	if got := md.Get("traceparent"); len(got) != 1 || got[0] != tracing.Traceparent(ctx) || len(md.Get("kas-thing")) != 1 {
		t.Errorf("got %v", md)
	}
}

func TestLivesLong_KnowsTheMethods(t *testing.T) {
	for method, long := range map[string]bool{
		agentrpc.Sync_Connect_FullMethodName:             true,
		agentrpc.ReverseTunnel_Connect_FullMethodName:    true,
		agentrpc.AgentConfiguration_Watch_FullMethodName: true,
		agentrpc.ClusterQuery_Watch_FullMethodName:       true,
		agentrpc.KubernetesApi_Do_FullMethodName:         true,
		agentrpc.ClusterQuery_Get_FullMethodName:         false,
		"":                                               false,
	} {
		if tracing.LivesLong(method) != long {
			t.Errorf("%q lives long: %t", method, !long)
		}
	}
}

// serve serves health, and RPCs that it does not have, to the connection that it returns.
func serve(t *testing.T, traced *tracing.Tracing) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(traced.ServerOptions()...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	railsrpc.RegisterNotificationsServer(server, railsrpc.UnimplementedNotificationsServer{})
	railsrpc.RegisterSyncStatusServer(server, railsrpc.UnimplementedSyncStatusServer{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- testkit.Serve(server, l) }()
	conn, err := grpc.NewClient(l.Addr().String(), append(traced.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestHTTP_ARequestIsOneTraceAtBothEnds(t *testing.T) {
	traced, spans := recorded(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := httptest.NewServer(traced.Handler(mux))
	defer server.Close()
	client := &http.Client{Transport: traced.Transport(server.Client().Transport)}
	get := func(ctx context.Context, query string, header ...string) {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/things/3"+query, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			request.Header.Set(header[i], header[i+1])
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	get(t.Context(), "?watch=true")
	get(t.Context(), "?follow=1")
	get(t.Context(), "", "Accept", "text/event-stream")
	get(t.Context(), "", "Upgrade", "websocket")
	if got := spans(); len(got) > 0 {
		t.Error(listed("of what lives long there are", got))
	}

	ctx, above := traced.Start(t.Context(), "above")
	get(ctx, "?private_token=secret")
	testkit.Eventually(t, func() error { // the server's span ends when it has answered
		var atClient, atServer sdktrace.ReadOnlySpan
		for _, one := range spans() {
			switch one.SpanKind() {
			case trace.SpanKindClient:
				atClient = one
			case trace.SpanKindServer:
				atServer = one
			}
		}
		if atClient == nil || atServer == nil || atClient.Parent().SpanID() != above.SpanContext().SpanID() ||
			atServer.Parent().SpanID() != atClient.SpanContext().SpanID() || atServer.Name() != "GET /things/{id}" {
			return listed("there are", spans())
		}
		for _, a := range atServer.Attributes() {
			if value := a.Value.String(); strings.Contains(value, "secret") || strings.Contains(value, "things/3") {
				t.Errorf("%s is %s", a.Key, value)
			}
		}
		return nil
	})
}

// listed is an error that lists spans.
func listed(what string, spans []sdktrace.ReadOnlySpan) error {
	for _, one := range spans {
		what += fmt.Sprintf("\n%s (%s) %s below %s", one.Name(), one.SpanKind(), one.SpanContext().SpanID(), one.Parent().SpanID())
	}
	return errors.New(what)
}

// BenchmarkStart is what a span costs who makes it: nothing where nothing is traced.
func BenchmarkStart(b *testing.B) {
	for name, exporter := range map[string]sdktrace.SpanExporter{"off": nil, "on": tracetest.NewNoopExporter()} {
		traced, err := tracing.New(b.Context(), tracing.Config{Service: "test", Exporter: exporter})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, span := traced.Start(b.Context(), "a span", tracing.AgentID(7), tracing.Commit("c"))
				span.End()
			}
		})
	}
}

package kas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
)

// spans are those that kas has made.
type spans struct{ *tracetest.InMemoryExporter }

// named returns the spans of a name, in the order in which they ended.
func (s spans) named(name string) []sdktrace.ReadOnlySpan {
	var found []sdktrace.ReadOnlySpan
	for _, one := range s.GetSpans().Snapshots() {
		if one.Name() == name {
			found = append(found, one)
		}
	}
	return found
}

// await waits for the nth span of a name, and makes sure that it is right below another.
func (s spans) await(t *testing.T, name string, n int, above trace.SpanContext) trace.SpanContext {
	t.Helper()
	testkit.Eventually(t, func() error {
		if got := s.named(name); len(got) < n {
			return fmt.Errorf("%d spans %q, want %d:\n%s", len(got), name, n, s)
		}
		return nil
	})
	one := s.named(name)[n-1]
	if one.Parent().SpanID() != above.SpanID() || above.IsValid() && one.SpanContext().TraceID() != above.TraceID() {
		t.Errorf("%q is not below %s:\n%s", name, above.SpanID(), s)
	}
	return one.SpanContext()
}

func (s spans) String() string {
	var all strings.Builder
	for _, one := range s.GetSpans().Snapshots() {
		fmt.Fprintf(&all, "%s %s below %s: %s\n", one.SpanContext().TraceID(), one.SpanContext().SpanID(), one.Parent().SpanID(), one.Name())
	}
	return all.String()
}

// otherProgram returns a span of another program, and its trace context.
func otherProgram(t *testing.T, below string) (trace.SpanContext, string) {
	t.Helper()
	other, err := tracing.New(t.Context(), tracing.Config{Service: "other", Exporter: tracetest.NewInMemoryExporter()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := other.Start(tracing.WithTraceparent(t.Context(), below), "elsewhere")
	defer span.End()
	return span.SpanContext(), tracing.Traceparent(ctx)
}

// syncStream is an agent's stream for the project.
type syncStream struct {
	grpc.BidiStreamingClient[agentrpc.ConnectRequest, agentrpc.ConnectResponse]
}

func follow(t *testing.T, kas *running, commit string) syncStream {
	t.Helper()
	stream, err := agentrpc.NewSyncClient(dial(t, kas.Agent)).Connect(bearing(t, "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{
		Hello: &agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: "a/b"}, CommitId: commit},
	}}); err != nil {
		t.Fatal(err)
	}
	return syncStream{stream}
}

// next receives a whole set, and returns its header.
func (s syncStream) next(t *testing.T) *agentrpc.Header {
	t.Helper()
	var header *agentrpc.Header
	for {
		message, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if message.GetHeader() != nil {
			header = message.GetHeader()
		}
		if message.GetTrailer() != nil {
			return header
		}
	}
}

func (s syncStream) report(t *testing.T, commit, traceparent string, state syncstatus.State) {
	t.Helper()
	if err := s.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Report{Report: &agentrpc.Report{
		CommitId: commit, AppliedCommitId: commit, State: state, Traceparent: traceparent, Reset_: true,
	}}}); err != nil {
		t.Fatal(err)
	}
}

func configMap(name string) map[string]string {
	return map[string]string{name + ".yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n"}
}

const aDay = "24h" // between polls: only what happened makes one due

func launchTraced(t *testing.T, gitaly *fakeGitaly) (*running, spans) {
	t.Helper()
	made := spans{tracetest.NewInMemoryExporter()}
	const listen = `{address: "127.0.0.1:0"}`
	return launch(t, &fakeRails{gitaly: gitaly.serve(t)}, listen, listen, aDay, kept(made)), made
}

// kept is an exporter whose spans are there when kas has ended.
type kept struct{ *tracetest.InMemoryExporter }

// Shutdown implements sdktrace.SpanExporter.
func (kept) Shutdown(context.Context) error { return nil }

func TestTracing_ACommitIsOneTrace(t *testing.T) {
	gitaly := &fakeGitaly{}
	first := gitaly.put(configMap("one"))
	kas, made := launchTraced(t, gitaly)
	stream := follow(t, kas, "")
	header := stream.next(t)
	poll := made.await(t, "poll", 1, trace.SpanContext{})
	parse := made.await(t, "parse", 1, poll)
	push := made.await(t, "push set", 1, parse)
	if header.GetCommitId() != first || spanNamed(t, header.GetTraceparent()) != push.SpanID() {
		t.Errorf("the agent was told %v", header)
	}

	second := gitaly.put(configMap("two"))
	event, traceparent := otherProgram(t, "")
	notify := func() {
		t.Helper()
		ctx := metadata.AppendToOutgoingContext(asRails(t), "traceparent", traceparent)
		if _, err := railsrpc.NewNotificationsClient(dial(t, kas.API)).GitPushEvent(ctx, &railsrpc.GitPushEventRequest{
			Project: &railsrpc.Project{FullPath: "a/b"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	notify()
	header = stream.next(t)
	told := made.await(t, "railsrpc.Notifications/GitPushEvent", 1, event)
	poll = made.await(t, "poll", 2, told)
	parse = made.await(t, "parse", 2, poll)
	made.await(t, "gitaly.CommitService/GetTreeEntries", 2, parse)
	made.await(t, "gitaly.BlobService/ListBlobs", 2, parse)
	push = made.await(t, "push set", 2, parse)
	if header.GetCommitId() != second || spanNamed(t, header.GetTraceparent()) != push.SpanID() {
		t.Errorf("the agent was told %v", header)
	}

	_, foreign := otherProgram(t, "")
	stream.report(t, second, foreign, syncstatus.State_STATE_SYNCING)
	run, traceparent2 := otherProgram(t, header.GetTraceparent())
	stream.report(t, second, traceparent2, syncstatus.State_STATE_SYNCED)
	report := made.await(t, "report", 1, run) // the first one's trace is none of the agent's
	post := made.await(t, "tell RoR", 1, report)
	made.await(t, "HTTP POST", 1, post)
	testkit.Eventually(t, func() error {
		if state := kas.rails.told("a/b").GetState(); state != syncstatus.State_STATE_SYNCED {
			return fmt.Errorf("RoR knows %s", state)
		}
		return nil
	})

	// What finds nothing new is no span, nor is a set that the agent has.
	notify()
	testkit.Eventually(t, func() error {
		_, metrics := httpGet(t, "http://"+kas.Observability+"/metrics")
		if !strings.Contains(metrics, `kas_gitaly_polls_total{result="unmoved"} 1`) {
			return errors.New("the poll has not ended")
		}
		return nil
	})
	if header := follow(t, kas, second).next(t); header.GetTraceparent() != "" {
		t.Errorf("an agent that comes back was told %v", header)
	}
	if err := kas.stop(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]int{"poll": 2, "parse": 2, "push set": 2, "report": 1} {
		if got := len(made.named(name)); got != want {
			t.Errorf("%d spans %q, want %d:\n%s", got, name, want, made)
		}
	}
	for _, one := range made.GetSpans().Snapshots() {
		if strings.Contains(one.Name(), "Connect") || strings.Contains(one.Name(), "InfoRefs") {
			t.Errorf("%s is a span", one.Name())
		}
	}
}

func spanNamed(t *testing.T, traceparent string) trace.SpanID {
	t.Helper()
	return trace.SpanContextFromContext(tracing.WithTraceparent(t.Context(), traceparent)).SpanID()
}

// openTunnel is an agent's idle stream, which answers RPCs and hands on their metadata.
func openTunnel(t *testing.T, kas *running, services ...string) <-chan metadata.MD {
	t.Helper()
	stream, err := agentrpc.NewReverseTunnelClient(dial(t, kas.Agent)).Connect(bearing(t, "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{
		AgentMeta: &agentrpc.AgentMeta{InstanceId: 1}, Services: services,
	}}); err != nil {
		t.Fatal(err)
	}
	encoded, err := proto.Marshal(&clusterstate.GetResponse{Item: &clusterstate.Item{Name: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan metadata.MD, 10)
	go func() {
		defer close(asked)
		for {
			if answerOnce(stream, func(request *agentrpc.TunnelRequest) *agentrpc.TunnelResponse {
				md := metadata.MD{}
				for _, entry := range request.GetStart().GetMetadata() {
					for _, v := range entry.GetValues() {
						md.Append(entry.GetKey(), string(v))
					}
				}
				asked <- md
				return &agentrpc.TunnelResponse{Messages: []*agentrpc.TunnelMessage{{Data: encoded}}}
			}) != nil {
				return
			}
		}
	}()
	return asked
}

func TestTracing_AQueryIsOneTrace(t *testing.T) {
	kas, made := launchTraced(t, &fakeGitaly{})
	asked := openTunnel(t, kas, agentrpc.ClusterQuery_ServiceDesc.ServiceName)
	client := railsrpc.NewClusterStateClient(dial(t, kas.API))
	question, traceparent := otherProgram(t, "")
	ctx := metadata.AppendToOutgoingContext(asRails(t), "traceparent", traceparent, "tracestate", "vendor=1")
	if _, err := client.Get(ctx, &railsrpc.ClusterGetRequest{AgentId: 7, Request: &clusterstate.GetRequest{Name: "p"}}); err != nil {
		t.Fatal(err)
	}
	rpc := made.await(t, "railsrpc.ClusterState/Get", 1, question)
	tunnel := made.await(t, "tunnel agentrpc.ClusterQuery/Get", 1, rpc)
	wantAsked := func(tunnel trace.SpanContext) {
		t.Helper()
		md := <-asked
		if got := md.Get("traceparent"); len(got) != 1 || spanNamed(t, got[0]) != tunnel.SpanID() || len(md.Get("tracestate")) != 1 {
			t.Errorf("the agent was told %v", md)
		}
	}
	wantAsked(tunnel)

	list, err := client.List(ctx, &railsrpc.ClusterListRequest{AgentId: 7})
	for err == nil {
		_, err = list.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	rpc = made.await(t, "railsrpc.ClusterState/List", 1, question)
	wantAsked(made.await(t, "tunnel agentrpc.ClusterQuery/List", 1, rpc))
}

func TestTracing_OffNothingCrosses(t *testing.T) {
	kas := start(t)
	asked := openTunnel(t, kas, agentrpc.ClusterQuery_ServiceDesc.ServiceName)
	_, traceparent := otherProgram(t, "")
	ctx := metadata.AppendToOutgoingContext(asRails(t), "traceparent", traceparent)
	if _, err := railsrpc.NewClusterStateClient(dial(t, kas.API)).Get(ctx, &railsrpc.ClusterGetRequest{AgentId: 7}); err != nil {
		t.Fatal(err)
	}
	if md := <-asked; len(md) > 0 {
		t.Errorf("the agent was told %v", md)
	}
}

// fakeConn is an agent that notes what it is told.
type fakeConn struct{ told metadata.MD }

func (c *fakeConn) Invoke(ctx context.Context, _ string, _, _ any, _ ...grpc.CallOption) error {
	c.told, _ = metadata.FromOutgoingContext(ctx)
	return nil
}

func (c *fakeConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	c.told, _ = metadata.FromOutgoingContext(ctx)
	return nil, errors.New("no")
}

// Here implements private.Agents.
func (c *fakeConn) Here(int64) grpc.ClientConnInterface { return c }

func TestTracing_WhatAnotherKasAsksForIsOfItsTrace(t *testing.T) {
	made := spans{tracetest.NewInMemoryExporter()}
	traced, err := tracing.New(t.Context(), tracing.Config{Service: "kas", Exporter: made})
	if err != nil {
		t.Fatal(err)
	}
	agent := &fakeConn{}
	conn := tracedHere(agent, traced).Here(7)
	_, theirs := otherProgram(t, "")
	rpc := trace.SpanContextFromContext(tracing.WithTraceparent(t.Context(), theirs))
	// What came is passed on, and the private API's span is in the context.
	ctx := metadata.AppendToOutgoingContext(trace.ContextWithSpanContext(t.Context(), rpc), "traceparent", theirs, "kas-thing", "x")
	if err := conn.Invoke(ctx, agentrpc.ClusterQuery_Get_FullMethodName, nil, nil); err != nil {
		t.Fatal(err)
	}
	span := made.await(t, "tunnel agentrpc.ClusterQuery/Get", 1, rpc)
	if got := agent.told.Get("traceparent"); len(got) != 1 || spanNamed(t, got[0]) != span.SpanID() || len(agent.told.Get("kas-thing")) != 1 {
		t.Errorf("the agent was told %v", agent.told)
	}
	// What lives long is no span, but of the trace.
	if _, err := conn.NewStream(ctx, nil, agentrpc.KubernetesApi_Do_FullMethodName); err == nil {
		t.Error("it worked")
	}
	if got := agent.told.Get("traceparent"); len(got) != 1 || spanNamed(t, got[0]) != rpc.SpanID() || len(made.GetSpans()) != 1 {
		t.Errorf("the agent was told %v:\n%s", agent.told, made)
	}
	if tracedHere(agent, nil) != agent {
		t.Error("without tracing the agent is another")
	}
}

func TestRun_SaysWhatIsWrongWithTracing(t *testing.T) {
	for name, row := range map[string]struct{ cfg, want string }{
		"no endpoint":       {"{}", "observability.tracing: otlp_endpoint is missing"},
		"no URL":            {"{otlp_endpoint: 'collector:4318'}", "observability.tracing.otlp_endpoint: this is not the URL of a collector"},
		"no token":          {"{otlp_endpoint: 'http://collector:4318', otlp_token_secret_file: /nowhere/token}", "observability.tracing.otlp_token_secret_file: open /nowhere/token"},
		"no certificate":    {"{otlp_endpoint: 'http://collector:4318', otlp_ca_certificate_file: /nowhere/ca}", "observability.tracing.otlp_ca_certificate_file: open /nowhere/ca"},
		"nothing in it":     {"{otlp_endpoint: 'http://collector:4318', otlp_ca_certificate_file: /dev/null}", "observability.tracing.otlp_ca_certificate_file: /dev/null holds no PEM certificate"},
		"an unknown scheme": {"{otlp_endpoint: 'grpc://collector:4317'}", "observability.tracing.otlp_endpoint: this is not the URL of a collector"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeConfiguration(t, required+"observability: {tracing: "+row.cfg+"}\n")
			cfg, err := LoadConfiguration(path)
			if err == nil {
				_, err = newTracing(t.Context(), Options{Configuration: cfg, Log: testkit.Logger(t)}, nil)
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

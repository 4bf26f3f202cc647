package private

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testSecret = []byte(strings.Repeat("s", 32))

// agent is one that is connected to a replica: a server of its own, in the place of a tunnel.
type agent struct {
	testgrpc.UnimplementedTestServiceServer
	mu      sync.Mutex
	heard   []metadata.MD
	waiting chan struct{} // gets one for each RPC that waits for its end
}

func (a *agent) hear(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = append(a.heard, md)
}

var beside = metadata.Pairs("kas-said", "yes", "secret", "no")

func (a *agent) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	a.hear(ctx)
	_ = grpc.SetHeader(ctx, beside)
	_ = grpc.SetTrailer(ctx, metadata.Join(beside, metadata.Pairs(keyNotBegun, "1")))
	if in.GetFillUsername() {
		a.waiting <- struct{}{}
		<-ctx.Done()
		a.waiting <- struct{}{}
	}
	if code := in.GetResponseStatus().GetCode(); code != 0 {
		return nil, status.Error(codes.Code(code), in.GetResponseStatus().GetMessage())
	}
	return &testgrpc.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (a *agent) StreamingOutputCall(in *testgrpc.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	a.hear(stream.Context())
	_ = stream.SetHeader(beside)
	stream.SetTrailer(beside)
	for _, p := range in.GetResponseParameters() {
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) StreamingInputCall(stream grpc.ClientStreamingServer[testgrpc.StreamingInputCallRequest, testgrpc.StreamingInputCallResponse]) error {
	a.hear(stream.Context())
	var total int32
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			_ = stream.SetHeader(beside)
			return stream.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: total})
		}
		if err != nil {
			return err
		}
		total += int32(len(in.GetPayload().GetBody()))
	}
}

func (a *agent) FullDuplexCall(stream grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	a.hear(stream.Context())
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			a.waiting <- struct{}{}
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

// here knows agent 7 and nobody else.
type here struct{ conn *grpc.ClientConn }

func (h here) Here(agentID int64) grpc.ClientConnInterface {
	if agentID == 7 {
		return h.conn
	}
	return nobody{}
}

type nobody struct{}

var errNobody = notBegunError{status.Error(codes.Unavailable, "the agent is not connected")}

func (nobody) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return errNobody }

func (nobody) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errNobody
}

// serve serves on a port of this machine.
func serve(tb testing.TB, server *grpc.Server) string {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	var g errgroup.Group
	g.Go(func() error { return server.Serve(listener) })
	tb.Cleanup(func() { server.Stop(); _ = g.Wait() })
	return listener.Addr().String()
}

// rig is a replica that has agent 7, and another's client.
type rig struct {
	agent  *agent
	url    string
	logs   *observer.ObservedLogs
	client *Client
	server *grpc.Server
	unary  atomic.Int32 // RPCs of this shape
}

func start(tb testing.TB, change ...func(*ClientConfig)) *rig {
	tb.Helper()
	r := &rig{agent: &agent{waiting: make(chan struct{}, 10)}}
	core, logs := observer.New(zap.WarnLevel)
	r.logs = logs
	far := grpc.NewServer(grpc.WaitForHandlers(true))
	testgrpc.RegisterTestServiceServer(far, r.agent)
	conn, err := grpc.NewClient(serve(tb, far), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(grpctool.RawCodec())))
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	r.server = NewServer(ServerConfig{
		Secret: testSecret, Clock: clock.RealClock{},
		Stream: []grpc.StreamServerInterceptor{func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if IsUnary(stream.Context()) {
				r.unary.Add(1)
			}
			return handler(srv, stream)
		}},
	}, here{conn}, zap.New(core))
	r.url = "grpc://" + serve(tb, r.server)
	cfg := ClientConfig{Secret: testSecret}
	for _, c := range change {
		c(&cfg)
	}
	r.client, err = NewClient(cfg, zap.New(core), prometheus.NewRegistry())
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(tb.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.client.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		require.NoError(tb, <-ran)
		require.Empty(tb, r.client.replicas)
	})
	return r
}

// through is an agent by way of the replica, as a connection for generated stubs.
type through struct {
	rig     *rig
	agentID int64
}

func (c through) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.rig.client.NewStream(ctx, c.rig.url, c.agentID, desc, method, options...)
}

func (c through) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	_, _, err := c.unary(ctx, method, args, reply)
	return err
}

func (c through) unary(ctx context.Context, method string, args, reply any) (header, trailer metadata.MD, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rpc, err := c.NewStream(ctx, &grpc.StreamDesc{}, method)
	if err != nil {
		return nil, nil, err
	}
	if err := rpc.SendMsg(args); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	err = rpc.RecvMsg(reply)
	header, _ = rpc.Header()
	return header, rpc.Trailer(), err
}

func (r *rig) stub(agentID int64) testgrpc.TestServiceClient {
	return testgrpc.NewTestServiceClient(through{r, agentID})
}

func payload(size int) *testgrpc.Payload { return &testgrpc.Payload{Body: make([]byte, size)} }

// within is a context for one test's calls.
func within(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testkit.Patience)
	tb.Cleanup(cancel)
	return ctx
}

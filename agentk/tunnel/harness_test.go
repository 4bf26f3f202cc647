package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	emptyCall  = testpb.TestService_EmptyCall_FullMethodName
	unaryCall  = testpb.TestService_UnaryCall_FullMethodName
	download   = testpb.TestService_StreamingOutputCall_FullMethodName
	upload     = testpb.TestService_StreamingInputCall_FullMethodName
	fullDuplex = testpb.TestService_FullDuplexCall_FullMethodName
)

// service is what the agent answers with.
type service struct {
	testpb.UnimplementedTestServiceServer
	// Each unless nil.
	empty  func(context.Context) error
	unary  func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	duplex func(testpb.TestService_FullDuplexCallServer) error
}

func (s *service) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	if s.empty != nil {
		return &testpb.Empty{}, s.empty(ctx)
	}
	return &testpb.Empty{}, nil
}

// UnaryCall answers with the request's payload.
func (s *service) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if s.unary != nil {
		return s.unary(ctx, req)
	}
	return &testpb.SimpleResponse{Payload: req.GetPayload()}, nil
}

// StreamingOutputCall sends as many bytes as each parameter says.
func (s *service) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	for _, p := range req.GetResponseParameters() {
		if err := stream.Send(output(min(int(p.GetSize()), tunnelwire.MaxMessage))); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall answers how many bytes have come.
func (s *service) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	size := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(m.GetPayload().GetBody())
	}
}

// FullDuplexCall sends back what comes.
func (s *service) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	if s.duplex != nil {
		return s.duplex(stream)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

func payload(size int) *testpb.Payload { return &testpb.Payload{Body: bytes.Repeat([]byte{7}, size)} }

func output(size int) *testpb.StreamingOutputCallResponse {
	return &testpb.StreamingOutputCallResponse{Payload: payload(size)}
}

func input(size int) *testpb.StreamingInputCallRequest {
	return &testpb.StreamingInputCallRequest{Payload: payload(size)}
}

// kasEnd plays kas over a real connection, as the test tells it.
type kasEnd struct {
	agentrpc.UnimplementedReverseTunnelServer
	opened chan *kasStream
	// refuse, unless nil, ends streams as soon as they are opened.
	refuse func() error
}

// kasStream is kas's end of a stream.
type kasStream struct {
	agentrpc.ReverseTunnel_ConnectServer
	hello *agentrpc.TunnelHello
	// end ends the stream with what is put into it.
	end chan error
}

func (k *kasEnd) Connect(stream agentrpc.ReverseTunnel_ConnectServer) error {
	if k.refuse != nil {
		if err := k.refuse(); err != nil {
			return err
		}
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s := &kasStream{ReverseTunnel_ConnectServer: stream, hello: first.GetHello(), end: make(chan error, 1)}
	select {
	case k.opened <- s:
	case <-stream.Context().Done():
	}
	select {
	case err := <-s.end:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// rig is a Server at work with a kasEnd.
type rig struct {
	kas      *kasEnd
	server   *Server
	clock    *clocktesting.FakeClock
	logs     *observer.ObservedLogs
	failures chan error
	registry *prometheus.Registry
	// wrap, unless nil, changes the client.
	wrap func(agentrpc.ReverseTunnelClient) agentrpc.ReverseTunnelClient
	// stop ends Run and waits for it.
	stop func()
}

// start runs a Server. change may be nil.
func start(tb testing.TB, svc *service, change func(*rig, *Config)) *rig {
	tb.Helper()
	listener := bufconn.Listen(1 << 20)
	r := &rig{
		kas:      &kasEnd{opened: make(chan *kasStream, 100)},
		clock:    clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0)),
		failures: make(chan error, 1000),
		registry: prometheus.NewRegistry(),
	}
	metrics, err := NewMetrics(r.registry)
	require.NoError(tb, err)
	core, logs := observer.New(zap.DebugLevel)
	r.logs = logs
	quick := retry.Policy{Initial: time.Millisecond, Max: 10 * time.Millisecond}
	cfg := Config{
		Meta:    func(context.Context) *agentrpc.AgentMeta { return &agentrpc.AgentMeta{PodName: "agentk-0"} },
		Log:     zap.New(zapcore.NewTee(core, testkit.Logger(tb).Core())),
		Metrics: metrics, Clock: r.clock, Ended: func(err error) { r.failures <- err },
		Lost: quick, Refused: quick, Old: quick,
		LargeRate: -1, // the clock stands still
	}
	if change != nil {
		change(r, &cfg)
	}
	grpcServer := grpc.NewServer()
	agentrpc.RegisterReverseTunnelServer(grpcServer, r.kas)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = grpcServer.Serve(listener)
	}()
	conn, err := grpc.NewClient("passthrough:///kas", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(tb, err)
	cfg.Client = agentrpc.NewReverseTunnelClient(conn)
	if r.wrap != nil {
		cfg.Client = r.wrap(cfg.Client)
	}
	r.server = NewServer(cfg)
	testpb.RegisterTestServiceServer(r.server, svc)
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.server.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(tb, <-ended)
	}
	tb.Cleanup(func() {
		r.stop()
		require.Equal(tb, [states]int{}, r.server.pool.count, "streams are still counted")
		require.NoError(tb, conn.Close())
		grpcServer.Stop()
		<-served
	})
	return r
}

// stream waits for the next stream that is opened.
func (r *rig) stream(tb testing.TB) *kasStream {
	tb.Helper()
	select {
	case s := <-r.kas.opened:
		return s
	case <-time.After(testkit.Patience):
		tb.Fatal("no stream was opened")
		return nil
	}
}

// failure waits for the next stream that fails.
func (r *rig) failure(tb testing.TB) error {
	tb.Helper()
	select {
	case err := <-r.failures:
		return err
	case <-time.After(testkit.Patience):
		tb.Fatal("no stream failed")
		return nil
	}
}

// await waits until so many streams are idle and busy.
func (r *rig) await(tb testing.TB, idle, busy int) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		streams := r.server.cfg.Metrics.streams
		i, b := testutil.ToFloat64(streams.WithLabelValues("idle")), testutil.ToFloat64(streams.WithLabelValues("busy"))
		if int(i) != idle || int(b) != busy {
			return fmt.Errorf("%v idle, %v busy", i, b)
		}
		return nil
	})
}

func (r *rig) counted(method, code string) float64 {
	return testutil.ToFloat64(r.server.cfg.Metrics.rpcs.WithLabelValues(method, code))
}

// parts returns messages as they cross.
func parts(tb testing.TB, messages ...proto.Message) (out []*agentrpc.TunnelMessage) {
	tb.Helper()
	for _, m := range messages {
		data, err := grpctool.Marshal(m)
		require.NoError(tb, err)
		cut, err := tunnelwire.Cut(data)
		require.NoError(tb, err)
		out = append(out, cut...)
	}
	return out
}

// whole is a unary request.
func whole(tb testing.TB, rpc uint64, method string, message proto.Message) *agentrpc.TunnelRequest {
	tb.Helper()
	return &agentrpc.TunnelRequest{Rpc: rpc, Start: &agentrpc.TunnelStart{Method: method}, Messages: parts(tb, message), HalfClose: true}
}

func (s *kasStream) send(tb testing.TB, frames ...*agentrpc.TunnelRequest) {
	tb.Helper()
	for _, m := range frames {
		require.NoError(tb, s.Send(m))
	}
}

// answer is all that came back for an RPC.
type answer struct {
	frames   []*agentrpc.TunnelResponse
	messages [][]byte
}

func (a *answer) trailers() *agentrpc.TunnelTrailers { return a.frames[len(a.frames)-1].GetTrailers() }

// answer receives until the RPC's trailers.
func (s *kasStream) answer(tb testing.TB, rpc uint64) *answer {
	tb.Helper()
	a := &answer{}
	var j tunnelwire.Joiner
	for {
		m, err := s.Recv()
		require.NoError(tb, err)
		require.Equal(tb, rpc, m.GetRpc())
		a.frames = append(a.frames, m)
		for _, part := range m.GetMessages() {
			message, whole, err := j.Join(part)
			require.NoError(tb, err)
			if whole {
				a.messages = append(a.messages, message)
			}
		}
		if m.GetTrailers() != nil {
			return a
		}
	}
}

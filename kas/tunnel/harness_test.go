package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tunnelwire"
	"github.com/kas-agentk/kas/kas/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testService = "grpc.testing.TestService"

// ror knows the tokens "agent-<number>" and "agent-<number>-…".
type ror struct {
	mu   sync.Mutex
	err  map[string]error
	bell chan struct{}
}

// Rechecked never has reason to ask again but where ring is called.
func (r *ror) Rechecked(int64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bell
}

func (r *ror) ring() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.bell)
	r.bell = make(chan struct{})
}

func (r *ror) Agent(_ context.Context, token string) (gitlabapi.AgentInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.err[token]; err != nil {
		return gitlabapi.AgentInfo{}, err
	}
	var id int64
	if _, err := fmt.Sscanf(token, "agent-%d", &id); err != nil {
		return gitlabapi.AgentInfo{}, status.Error(codes.Unauthenticated, "unknown token")
	}
	return gitlabapi.AgentInfo{AgentID: id}, nil
}

func (r *ror) say(token string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err[token] = err
}

// harness is a Server on a gRPC server, over an in-memory network.
type harness struct {
	t        testing.TB
	ror      *ror
	clock    *clocktesting.FakeClock
	metrics  *prometheus.Registry
	server   *tunnel.Server
	listener *bufconn.Listener
	stop     context.CancelFunc // of Run
	ran      chan error         // what Run returned
}

func start(tb testing.TB, change ...func(*tunnel.Config)) *harness {
	tb.Helper()
	return startWith(tb, tunnel.Collaborators{}, change...)
}

// startWith starts a Server with collaborators besides those of every test.
func startWith(tb testing.TB, with tunnel.Collaborators, change ...func(*tunnel.Config)) *harness {
	tb.Helper()
	h := &harness{
		t: tb, ror: &ror{err: map[string]error{}, bell: make(chan struct{})}, clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0)),
		metrics: prometheus.NewRegistry(), listener: bufconn.Listen(1 << 16), ran: make(chan error, 1),
	}
	cfg := tunnel.Config{Clock: h.clock}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	with.Access, with.Registerer = h.ror, h.metrics
	h.server, err = tunnel.NewServer(cfg, with)
	require.NoError(tb, err)
	rpc := grpc.NewServer()
	agentrpc.RegisterReverseTunnelServer(rpc, h.server)
	ctx, stop := context.WithCancel(tb.Context())
	h.stop = stop
	var g errgroup.Group
	g.Go(func() error { return testkit.Serve(rpc, h.listener) })
	go func() { h.ran <- h.server.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		rpc.Stop()
		require.NoError(tb, <-h.ran)
		require.NoError(tb, g.Wait())
		require.Equal(tb, [2]float64{}, h.streams(), "streams are still counted")
		require.Zero(tb, tunnel.Agents(h.server), "agents are still remembered")
	})
	return h
}

// streams are how many are idle and busy, by the metrics.
func (h *harness) streams() (n [2]float64) {
	h.t.Helper()
	return [2]float64{h.value("kas_tunnel_streams", "idle"), h.value("kas_tunnel_streams", "busy")}
}

// value of a metric that has these label values.
func (h *harness) value(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.metrics.Gather()
	require.NoError(h.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var has []string
			for _, label := range m.GetLabel() {
				has = append(has, label.GetValue())
			}
			if family.GetName() == name && strings.Join(has, " ") == strings.Join(labels, " ") {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// await waits for numbers of idle and busy streams.
func (h *harness) await(idle, busy float64) {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		if got := h.streams(); got != [2]float64{idle, busy} {
			return fmt.Errorf("%v idle, %v busy; want %v, %v", got[0], got[1], idle, busy)
		}
		return nil
	})
}

func (h *harness) client(agentID int64) testgrpc.TestServiceClient {
	return testgrpc.NewTestServiceClient(h.server.Conn(agentID))
}

func (h *harness) dial() agentrpc.ReverseTunnelClient {
	h.t.Helper()
	// Windows that grow by themselves would let an agent that does not read have ever more.
	conn, err := grpc.NewClient("passthrough:///kas", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(1<<16), grpc.WithStaticConnWindowSize(1<<16),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return h.listener.DialContext(ctx) }))
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return agentrpc.NewReverseTunnelClient(conn)
}

// stream is an agent's end of a stream, which the test plays.
type stream struct {
	t   testing.TB
	rpc grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest]
	end context.CancelFunc
}

// open opens a stream and says nothing.
func (h *harness) open(token string) *stream {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	h.t.Cleanup(cancel)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	rpc, err := h.dial().Connect(ctx)
	require.NoError(h.t, err)
	return &stream{t: h.t, rpc: rpc, end: cancel}
}

func hello(instance int64, services ...string) *agentrpc.TunnelResponse {
	return &agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{AgentMeta: &agentrpc.AgentMeta{InstanceId: instance}, Services: services}}
}

// connect opens a stream of process 1 of agent 7, and waits until kas knows it.
func (h *harness) connect() *stream { h.t.Helper(); return h.connectAs("agent-7", 1, testService) }

func (h *harness) connectAs(token string, instance int64, services ...string) *stream {
	h.t.Helper()
	before := tunnel.Streams(h.server)
	st := h.open(token)
	st.send(hello(instance, services...))
	testkit.Eventually(h.t, func() error {
		if now := tunnel.Streams(h.server); now != before+1 {
			return fmt.Errorf("%d streams, and %d before", now, before)
		}
		return nil
	})
	return st
}

func (st *stream) send(response *agentrpc.TunnelResponse) {
	st.t.Helper()
	require.NoError(st.t, st.rpc.Send(response))
}

func (st *stream) recv() *agentrpc.TunnelRequest {
	st.t.Helper()
	request, err := st.rpc.Recv()
	require.NoError(st.t, err)
	return request
}

// recvStart receives the frame that starts an RPC.
func (st *stream) recvStart() *agentrpc.TunnelRequest {
	st.t.Helper()
	request := st.recv()
	require.NotNil(st.t, request.GetStart(), request)
	return request
}

// ending reads until the stream ends, and returns why.
func (st *stream) ending() error {
	st.t.Helper()
	for {
		if _, err := st.rpc.Recv(); err != nil {
			return err
		}
	}
}

func message(m proto.Message, more bool) *agentrpc.TunnelMessage {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &agentrpc.TunnelMessage{Data: data, More: more}
}

// answer is a whole answer to a unary RPC.
func answer(rpc uint64, m proto.Message) *agentrpc.TunnelResponse {
	return &agentrpc.TunnelResponse{
		Rpc: rpc, Headers: &agentrpc.TunnelHeaders{}, Messages: []*agentrpc.TunnelMessage{message(m, false)}, Trailers: &agentrpc.TunnelTrailers{},
	}
}

func trailers(rpc uint64, code codes.Code) *agentrpc.TunnelResponse {
	return &agentrpc.TunnelResponse{Rpc: rpc, Trailers: &agentrpc.TunnelTrailers{Code: uint32(code)}}
}

// serve serves one RPC after another on a stream until it ends.
func (st *stream) serve(handle func(*handling) error) {
	for {
		request, err := st.rpc.Recv()
		if err != nil {
			return
		}
		if request.GetStart() == nil {
			continue // left over from an RPC that has ended
		}
		one := &handling{st: st, rpc: request.GetRpc(), start: request.GetStart(), method: request.GetStart().GetMethod(), frame: request}
		err = handle(one)
		if err := st.rpc.Send(&agentrpc.TunnelResponse{Rpc: one.rpc, Trailers: tunnelwire.FromError(err, one.trailer)}); err != nil {
			return
		}
	}
}

// handling is one RPC at the agent.
type handling struct {
	st      *stream
	rpc     uint64
	start   *agentrpc.TunnelStart
	method  string
	frame   *agentrpc.TunnelRequest // that was received last
	joiner  tunnelwire.Joiner
	trailer metadata.MD
}

var errOver = errors.New("there are no more requests")

// recv receives the next message.
func (h *handling) recv(m proto.Message) error {
	for {
		for len(h.frame.GetMessages()) > 0 {
			part := h.frame.GetMessages()[0]
			h.frame.Messages = h.frame.GetMessages()[1:]
			data, whole, err := h.joiner.Join(part)
			if err != nil {
				return err
			}
			if whole {
				return proto.Unmarshal(data, m)
			}
		}
		switch {
		case h.frame.GetCancel():
			return status.Error(codes.Canceled, "the caller has left")
		case h.frame.GetHalfClose():
			return errOver
		}
		frame, err := h.st.rpc.Recv()
		if err != nil {
			return err
		}
		if h.frame = frame; frame.GetRpc() != h.rpc {
			return fmt.Errorf("a frame of RPC %d in RPC %d", frame.GetRpc(), h.rpc)
		}
	}
}

// cancelled waits until the caller has left.
func (h *handling) cancelled() error {
	for {
		if err := h.recv(&testgrpc.Empty{}); err != nil && !errors.Is(err, errOver) {
			return err
		}
		frame, err := h.st.rpc.Recv()
		if err != nil {
			return err
		}
		h.frame = frame
	}
}

// send sends a message, in as many frames as it takes.
func (h *handling) send(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	parts, err := tunnelwire.Cut(data)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err := h.st.rpc.Send(&agentrpc.TunnelResponse{Rpc: h.rpc, Messages: []*agentrpc.TunnelMessage{part}}); err != nil {
			return err
		}
	}
	return nil
}

func (h *handling) header(md metadata.MD) error {
	return h.st.rpc.Send(&agentrpc.TunnelResponse{Rpc: h.rpc, Headers: &agentrpc.TunnelHeaders{Metadata: tunnelwire.FromMD(md)}})
}

// agent keeps count streams open that serve; the test ends when they have ended.
func (h *harness) agent(count int, handle func(*handling) error) {
	h.t.Helper()
	var g errgroup.Group
	for range count {
		st := h.connect()
		g.Go(func() error { st.serve(handle); return nil })
	}
	h.t.Cleanup(func() { h.stop(); _ = g.Wait() })
}

// echo is TestService.
func echo(h *handling) error {
	switch h.method {
	case "/grpc.testing.TestService/UnaryCall":
		var in testgrpc.SimpleRequest
		if err := h.recv(&in); err != nil {
			return err
		}
		return h.send(&testgrpc.SimpleResponse{Payload: in.GetPayload()})
	case "/grpc.testing.TestService/StreamingOutputCall":
		var in testgrpc.StreamingOutputCallRequest
		if err := h.recv(&in); err != nil {
			return err
		}
		for _, p := range in.GetResponseParameters() {
			if err := h.send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
				return err
			}
		}
		return nil
	case "/grpc.testing.TestService/StreamingInputCall":
		var total int32
		for {
			var in testgrpc.StreamingInputCallRequest
			if err := h.recv(&in); errors.Is(err, errOver) {
				return h.send(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: total})
			} else if err != nil {
				return err
			}
			total += int32(len(in.GetPayload().GetBody()))
		}
	case "/grpc.testing.TestService/FullDuplexCall":
		for {
			var in testgrpc.StreamingOutputCallRequest
			if err := h.recv(&in); errors.Is(err, errOver) {
				return nil
			} else if err != nil {
				return err
			}
			if err := h.send(&testgrpc.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
				return err
			}
		}
	default:
		return h.cancelled()
	}
}

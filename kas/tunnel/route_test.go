package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/tunnel"
)

// board is where kas finds others, and the way there: in this process.
type board struct {
	mu      sync.Mutex
	urls    []string
	changed chan struct{}
	err     error
	asked   int
	kas     map[string]*tunnel.Server
}

func newBoard() *board {
	return &board{changed: make(chan struct{}), kas: make(map[string]*tunnel.Server)}
}

// say says which kas have the agent.
func (b *board) say(urls ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.urls = urls
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) add(url string, h *harness) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kas[url] = h.server
}

// Where implements tunnel.Replicas.
func (b *board) Where(context.Context, int64) ([]string, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return b.urls, b.changed, b.err
}

// NewStream implements tunnel.Replicas.
func (b *board) NewStream(ctx context.Context, url string, agentID int64, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	b.mu.Lock()
	server := b.kas[url]
	b.mu.Unlock()
	if server == nil {
		return nil, unreachable{}
	}
	return server.Here(agentID).NewStream(ctx, desc, method, options...)
}

// unreachable is the error of a kas that is not there.
type unreachable struct{}

func (unreachable) Error() string { return "connection refused" }

func (unreachable) NotBegun() bool { return true }

func (unreachable) GRPCStatus() *status.Status {
	return status.New(codes.Unavailable, "connection refused")
}

func (b *board) awaitAsked(t *testing.T, times int) {
	t.Helper()
	testkit.Eventually(t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.asked < times {
			return fmt.Errorf("asked %d times", b.asked)
		}
		return nil
	})
}

func realTime(c *tunnel.Config) { c.Clock = clock.RealClock{} }

// routed starts a kas that knows others.
func routed(t *testing.T, b *board) *harness {
	t.Helper()
	return startWith(t, tunnel.Collaborators{Replicas: b}, realTime)
}

func ask(t *testing.T, h *harness) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := h.client(7).UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(3)})
	return err
}

func TestConn_AgentIsAtAnotherKas(t *testing.T) {
	t.Parallel()
	b := newBoard()
	h, far := routed(t, b), start(t)
	b.add("far", far)
	b.say("far")
	far.agent(2, echo)
	client := h.client(7)
	require.NoError(t, ask(t, h))

	out, err := client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{
		ResponseParameters: []*testgrpc.ResponseParameters{{Size: 2}, {Size: 1}},
	})
	require.NoError(t, err)
	for _, want := range []int{2, 1} {
		m, err := out.Recv()
		require.NoError(t, err)
		require.Len(t, m.GetPayload().GetBody(), want)
	}
	_, err = out.Recv()
	require.ErrorIs(t, err, io.EOF)

	in, err := client.StreamingInputCall(t.Context())
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, in.Send(&testgrpc.StreamingInputCallRequest{Payload: payload(5)}))
	}
	total, err := in.CloseAndRecv()
	require.NoError(t, err)
	require.EqualValues(t, 15, total.GetAggregatedPayloadSize())

	both, err := client.FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(4)}))
	m, err := both.Recv()
	require.NoError(t, err)
	require.Len(t, m.GetPayload().GetBody(), 4)
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.ErrorIs(t, err, io.EOF)

	ctx, cancel := context.WithCancel(t.Context())
	half, err := client.HalfDuplexCall(ctx)
	require.NoError(t, err)
	far.await(1, 1)
	cancel()
	_, err = half.Recv()
	require.Equal(t, codes.Canceled, status.Code(err))
	far.await(2, 0)
	require.InDelta(t, 5, h.value("kas_tunnel_elsewhere_total", "begun"), 0)
	require.InDelta(t, 1, h.value("kas_tunnel_rpcs_total", "OK", "/grpc.testing.TestService/UnaryCall"), 0)
	require.InDelta(t, 1, h.value("kas_tunnel_rpcs_total", "Canceled", "/grpc.testing.TestService/HalfDuplexCall"), 0)
}

func TestConn_RPCsWaitForTheAgentWhereverItComes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		come func(b *board, h, far *harness)
	}{
		{"it comes here", func(_ *board, h, _ *harness) { h.agent(1, echo) }},
		{"it comes elsewhere", func(b *board, _, far *harness) { far.agent(1, echo); b.say("far") }},
		{"it is said to be elsewhere before it is", func(b *board, _, far *harness) {
			b.say("far")
			far.agent(1, echo)
		}},
		{"it comes here, though it is said to be elsewhere", func(b *board, h, _ *harness) {
			b.say("far")
			h.agent(1, echo)
		}},
		{"it was elsewhere, and the kas there is gone", func(b *board, _, far *harness) {
			b.say("gone")
			far.agent(1, echo)
			b.say("gone", "far")
		}},
		{"where others are is not known, and it comes here", func(b *board, h, _ *harness) {
			b.mu.Lock()
			b.err = errors.New("Redis is away")
			b.mu.Unlock()
			b.say()
			h.agent(1, echo)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newBoard()
			h, far := routed(t, b), start(t)
			b.add("far", far)
			var g errgroup.Group
			for range 3 {
				g.Go(func() error { return ask(t, h) })
			}
			b.awaitAsked(t, 3)
			row.come(b, h, far)
			require.NoError(t, g.Wait())
		})
	}
}

func TestConn_AgentLeavesForAnotherKasWhileRPCsWait(t *testing.T) {
	t.Parallel()
	b := newBoard()
	h, far, third := routed(t, b), start(t), start(t)
	b.add("far", far)
	b.add("third", third)
	b.say()
	// It is here, and busy.
	st := h.connect()
	busy, err := h.client(7).FullDuplexCall(t.Context())
	require.NoError(t, err)
	h.await(0, 1)
	var g errgroup.Group
	g.Go(func() error { return ask(t, h) })
	testkit.Eventually(t, func() error {
		if tunnel.Waiting(h.server, 7) != 1 {
			return errors.New("nobody waits")
		}
		return nil
	})
	// It goes to another, and is busy there.
	away := far.connect()
	far.await(1, 0)
	there, err := testgrpc.NewTestServiceClient(far.server.Conn(7)).FullDuplexCall(t.Context())
	require.NoError(t, err)
	b.say("far")
	st.end()
	_, err = busy.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), "what had begun is lost")
	testkit.Eventually(t, func() error {
		if tunnel.Waiting(far.server, 7) != 1 {
			return errors.New("nobody waits at the other")
		}
		return nil
	})
	// And on to a third.
	away.end()
	_, err = there.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
	third.agent(1, echo)
	b.say("third")
	require.NoError(t, g.Wait())
}

func TestConn_ServiceIsOfferedElsewhereOrNowhere(t *testing.T) {
	t.Parallel()
	b := newBoard()
	h, far := routed(t, b), start(t)
	b.add("far", far)
	h.connectAs("agent-7", 1, "old.Service")
	err := ask(t, h)
	require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)

	far.connectAs("agent-7", 2, "older.Service")
	b.say("far")
	err = ask(t, h)
	require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
	require.Contains(t, status.Convert(err).Message(), "does not offer grpc.testing.TestService")

	far.agent(1, echo) // the same process is newer now
	require.NoError(t, ask(t, h))
}

func TestConn_AgentIsNowhere(t *testing.T) {
	t.Parallel()
	b := newBoard()
	b.say("gone")
	h := startWith(t, tunnel.Collaborators{Replicas: b}, realTime, func(c *tunnel.Config) { c.ConnectWait = 200 * time.Millisecond })
	_, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{}) // without a deadline
	require.Equal(t, status.New(codes.Unavailable, "agent 7 is not connected; the kas at gone: connection refused").Proto(), status.Convert(err).Proto())
	timeout := 150 * time.Millisecond
	testkit.Eventually(t, func() error {
		timeout *= 2 // a tenth of it is for saying why, which a busy machine may not make in time
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		if _, err := h.client(7).UnaryCall(ctx, &testgrpc.SimpleRequest{}); status.Code(err) != codes.Unavailable {
			return err
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { _, err := h.client(7).FullDuplexCall(ctx); return err })
	testkit.Eventually(t, func() error {
		if tunnel.Waiting(h.server, 7) != 1 {
			return errors.New("nobody waits")
		}
		return nil
	})
	cancel()
	require.Equal(t, codes.Canceled, status.Code(g.Wait()))
	require.Zero(t, tunnel.Waiting(h.server, 7))
}

func TestHere_NeverWaitsForAnAgentThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := newBoard()
	b.say("far")
	h := routed(t, b)
	requireNotBegun := func(err error, code codes.Code) {
		t.Helper()
		var says interface{ NotBegun() bool }
		require.ErrorAs(t, err, &says)
		require.True(t, says.NotBegun())
		require.Equal(t, code, status.Code(err))
	}
	here := testgrpc.NewTestServiceClient(h.server.Here(7))
	_, err := here.UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
	requireNotBegun(err, codes.Unavailable)
	require.Zero(t, b.asked, "it would go round in circles")

	st := h.connect()
	_, err = h.server.Here(7).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/strange.Service/Method")
	requireNotBegun(err, codes.Unimplemented)

	busy, err := here.FullDuplexCall(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = here.UnaryCall(ctx, &testgrpc.SimpleRequest{})
	requireNotBegun(err, codes.DeadlineExceeded)

	var g errgroup.Group
	g.Go(func() error { _, err := here.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); return err })
	testkit.Eventually(t, func() error {
		if tunnel.Waiting(h.server, 7) != 1 {
			return errors.New("nobody waits")
		}
		return nil
	})
	st.end()
	requireNotBegun(g.Wait(), codes.Unavailable)
	_, err = busy.Recv()
	var says interface{ NotBegun() bool }
	require.NotErrorAs(t, err, &says, "it had begun")
	require.Equal(t, codes.Unavailable, status.Code(err))
}

func TestServer_TellsWhatAgentsOffer(t *testing.T) {
	t.Parallel()
	changed := make(chan int64, 10)
	h := startWith(t, tunnel.Collaborators{Changed: func(id int64) { changed <- id }})
	require.Empty(t, h.server.Services(7))
	one := h.connectAs("agent-7", 1, "b", "a")
	require.EqualValues(t, 7, <-changed)
	require.Equal(t, []string{"a", "b"}, h.server.Services(7))
	second := h.connectAs("agent-7", 1, "b", "a") // nothing new
	other := h.connectAs("agent-7", 2, "b", "c")
	require.EqualValues(t, 7, <-changed)
	require.Equal(t, []string{"a", "b", "c"}, h.server.Services(7))
	one.end()
	other.end()
	require.EqualValues(t, 7, <-changed)
	require.Equal(t, []string{"a", "b"}, h.server.Services(7))
	second.end()
	require.EqualValues(t, 7, <-changed)
	require.Empty(t, h.server.Services(7))
	require.Empty(t, changed)
}

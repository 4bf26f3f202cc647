package tunnel_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/tunnel"
)

// unary makes a unary RPC in the background.
func (h *harness) unary(ctx context.Context, agentID int64) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := h.client(agentID).UnaryCall(ctx, &testgrpc.SimpleRequest{})
		done <- err
	}()
	return done
}

// awaitWaiting waits until so many RPCs wait for agent 7.
func (h *harness) awaitWaiting(count int) {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		if n := tunnel.Waiting(h.server, 7); n != count {
			return fmt.Errorf("%d wait, not %d", n, count)
		}
		return nil
	})
}

func refuses(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	require.Equal(t, code, status.Code(err), err)
	require.Contains(t, err.Error(), text)
}

func TestConn_AgentIsNotConnected(t *testing.T) {
	h := start(t)
	within, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	refuses(t, <-h.unary(within, 7), codes.Unavailable, "agent 7 is not connected")

	gone, leave := context.WithCancel(t.Context())
	left := h.unary(gone, 7)
	h.awaitWaiting(1)
	leave()
	refuses(t, <-left, codes.Canceled, "canceled")
	refuses(t, <-h.unary(gone, 7), codes.Canceled, "canceled")

	patient := h.unary(t.Context(), 7) // without a deadline
	testkit.Eventually(t, func() error {
		if !h.clock.HasWaiters() || tunnel.Waiting(h.server, 7) == 0 {
			return fmt.Errorf("%d wait", tunnel.Waiting(h.server, 7))
		}
		return nil
	})
	stepUntil(h, 10*time.Second, patient, func(err error) { refuses(t, err, codes.Unavailable, "agent 7 is not connected") })
}

// stepUntil steps the clock until something is there: timers may be set only later.
func stepUntil(h *harness, d time.Duration, done <-chan error, check func(error)) {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		h.clock.Step(d)
		select {
		case err := <-done:
			check(err)
			return nil
		default:
			return fmt.Errorf("nothing after %s", d)
		}
	})
}

func TestConn_RPCsWaitForTheAgentFirstComeFirstServed(t *testing.T) {
	h := start(t)
	var calls []<-chan error
	for n := range 3 {
		calls = append(calls, h.unary(t.Context(), 7))
		h.awaitWaiting(n + 1)
	}
	st := h.connect()
	for n, call := range calls {
		request := st.recvStart()
		select {
		case err := <-calls[(n+1)%3]:
			t.Fatal("out of turn", err)
		default:
		}
		st.send(answer(request.GetRpc(), &testgrpc.SimpleResponse{}))
		require.NoError(t, <-call)
	}
}

func TestConn_AllStreamsAreBusy(t *testing.T) {
	h := start(t, func(c *tunnel.Config) { c.MaxWaiting = 1 })
	st := h.connect()
	busy := h.unary(t.Context(), 7)
	request := st.recvStart()
	within, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	refuses(t, <-h.unary(within, 7), codes.DeadlineExceeded, "all streams of agent 7 are busy")

	patient := h.unary(t.Context(), 7)
	h.awaitWaiting(1)
	refuses(t, <-h.unary(t.Context(), 7), codes.ResourceExhausted, "1 calls wait for agent 7 already")
	h.clock.Step(time.Minute) // it is connected: who has no deadline goes on waiting
	st.send(answer(request.GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-busy)
	st.send(answer(st.recvStart().GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-patient)
}

func TestConn_AgentkDoesNotOfferTheService(t *testing.T) {
	h := start(t)
	waiting := h.unary(t.Context(), 7)
	h.awaitWaiting(1)
	h.connectAs("agent-7", 1, "another.Service")
	refuses(t, <-waiting, codes.Unimplemented, "too old")
	refuses(t, <-h.unary(t.Context(), 7), codes.Unimplemented, "does not offer grpc.testing.TestService")

	// A replica that offers it takes the RPC, though it was connected later.
	st := h.connectAs("agent-7", 2, testService)
	call := h.unary(t.Context(), 7)
	st.send(answer(st.recvStart().GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-call)
	// When it goes while it is busy, those who wait cannot be served any more.
	call = h.unary(t.Context(), 7)
	st.recvStart()
	waiting = h.unary(t.Context(), 7)
	h.awaitWaiting(1)
	st.end()
	refuses(t, <-call, codes.Unavailable, "agent 7 went away")
	refuses(t, <-waiting, codes.Unimplemented, "too old")
}

func TestConn_PrefersTheProcessThatWasConnectedFirst(t *testing.T) {
	h := start(t)
	first, second := h.connectAs("agent-7", 1, testService), h.connectAs("agent-7", 2, testService)
	one := h.unary(t.Context(), 7)
	request := first.recvStart()
	two := h.unary(t.Context(), 7)
	second.send(answer(second.recvStart().GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-two)
	first.send(answer(request.GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-one)
	one = h.unary(t.Context(), 7)
	first.send(answer(first.recvStart().GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-one)
}

func TestServer_AsksForIdleStreamsAndLetsThemGo(t *testing.T) {
	h := start(t)
	var calls []<-chan error
	for n := range 4 {
		calls = append(calls, h.unary(t.Context(), 7))
		h.awaitWaiting(n + 1)
	}
	var streams []*stream
	for n := range 4 {
		streams = append(streams, h.connect())
		request := streams[n].recvStart()
		if n == 0 {
			require.EqualValues(t, 4, request.GetIdleStreams(), "three wait, and one is to be idle")
		} else {
			require.Nil(t, request.IdleStreams, "it was told")
		}
	}
	for n, st := range streams {
		st.send(answer(1, &testgrpc.SimpleResponse{}))
		require.NoError(t, <-calls[n])
	}
	streams = append(streams, h.connect(), h.connect())
	h.await(6, 0)
	h.clock.Step(time.Minute)
	h.await(6, 0) // there may have been demand a moment ago
	var parting int
	testkit.Eventually(t, func() error {
		h.clock.Step(time.Minute)
		if got := h.streams(); got != [2]float64{1, 0} {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	for _, st := range streams {
		if request, err := st.rpc.Recv(); err == nil {
			require.EqualValues(t, 1, request.GetIdleStreams())
			require.Zero(t, request.GetRpc())
			parting++
			require.EqualError(t, st.ending(), "EOF")
		}
		if parting == 5 {
			break
		}
	}
	require.Equal(t, 5, parting)
}

func TestServer_KeepsStreamsThatAreNeeded(t *testing.T) {
	h := start(t)
	a, b := h.connect(), h.connect()
	for range 5 {
		one, two := h.unary(t.Context(), 7), h.unary(t.Context(), 7)
		first, second := a.recvStart(), b.recvStart() // both at once
		a.send(answer(first.GetRpc(), &testgrpc.SimpleResponse{}))
		b.send(answer(second.GetRpc(), &testgrpc.SimpleResponse{}))
		require.NoError(t, <-one)
		require.NoError(t, <-two)
		h.clock.Step(time.Minute)
	}
	h.await(2, 0)
}

func TestServer_BoundsStreamsAndProcesses(t *testing.T) {
	h := start(t, func(c *tunnel.Config) { c.MaxStreams, c.MaxProcesses = 2, 2 })
	h.connect()
	h.connect()
	third := h.open("agent-7")
	third.send(hello(1, testService))
	refuses(t, third.ending(), codes.ResourceExhausted, "2 streams open")
	h.connectAs("agent-7", 2, testService)
	fourth := h.open("agent-7")
	fourth.send(hello(3, testService))
	refuses(t, fourth.ending(), codes.ResourceExhausted, "2 processes connected")
	h.connectAs("agent-8", 1, testService) // another agent does not notice
	var silent []*stream
	for range 3 {
		silent = append(silent, h.open("agent-9"))
	}
	refused := make(chan error, 3)
	for _, st := range silent {
		go func() { refused <- st.ending() }()
	}
	refuses(t, <-refused, codes.ResourceExhausted, "opens more than 2 streams at once")
	stepUntil(h, 10*time.Second, refused, func(err error) { refuses(t, err, codes.InvalidArgument, "no hello") })
	stepUntil(h, 10*time.Second, refused, func(err error) { refuses(t, err, codes.InvalidArgument, "no hello") })
}

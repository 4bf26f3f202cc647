package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tunnelwire"
	"github.com/kas-agentk/kas/kas/tunnel"
)

func TestConnect_RefusesWhomItDoesNotKnow(t *testing.T) {
	h := start(t)
	h.ror.say("agent-1", status.Error(codes.PermissionDenied, "not this one"))
	h.ror.say("agent-2", errors.New("RoR is away"))
	for token, want := range map[string]codes.Code{"": codes.Unauthenticated, "nobody": codes.Unauthenticated, "agent-1": codes.PermissionDenied, "agent-2": codes.Unavailable} {
		require.Equal(t, want, status.Code(h.open(token).ending()), token)
	}
}

func TestConnect_RefusesAHelloThatIsNone(t *testing.T) {
	h := start(t)
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprint("s", i)
	}
	for name, first := range map[string]*agentrpc.TunnelResponse{
		"nothing":             {},
		"trailers":            {Rpc: 1, Trailers: &agentrpc.TunnelTrailers{}},
		"a hello of an RPC":   {Rpc: 1, Hello: &agentrpc.TunnelHello{}},
		"a hello and more":    {Hello: &agentrpc.TunnelHello{}, Headers: &agentrpc.TunnelHeaders{}},
		"too many services":   hello(1, many...),
		"a service's name":    hello(1, string(make([]byte, 300))),
		"a service's no name": hello(1, ""),
	} {
		st := h.open("agent-7")
		st.send(first)
		require.Equal(t, codes.InvalidArgument, status.Code(st.ending()), name)
	}
	st := h.open("agent-7")
	require.NoError(t, st.rpc.CloseSend())
	require.Equal(t, codes.InvalidArgument, status.Code(st.ending()))
}

func TestServer_TokenIsRevoked(t *testing.T) {
	for name, ask := range map[string]func(*harness){
		"after a while": func(h *harness) { h.clock.Step(10 * time.Second) },
		"at once":       func(h *harness) { h.ror.ring() },
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			idle, busy, other := h.connect(), h.connect(), h.connectAs("agent-7-other", 1, testService)
			call := h.unary(t.Context(), 7)
			busy.recvStart()
			testkit.Eventually(t, func() error {
				if !h.clock.HasWaiters() {
					return errors.New("Run has not begun")
				}
				return nil
			})
			h.ror.say("agent-7", errors.New("RoR is away")) // changes nothing
			ask(h)
			h.await(2, 1)
			h.ror.say("agent-7", status.Error(codes.Unauthenticated, "revoked"))
			ask(h)
			refuses(t, idle.ending(), codes.Unauthenticated, "revoked")
			refuses(t, busy.ending(), codes.Unauthenticated, "revoked")
			refuses(t, <-call, codes.Unavailable, "revoked")
			h.await(1, 0)
			other.end()
			h.await(0, 0)
		})
	}
}

func TestServer_DrainsIdleStreamsAtOnceAndBusyOnesAfterTheirRPC(t *testing.T) {
	h := start(t)
	idle, busy, silent := h.connect(), h.connect(), h.open("agent-8")
	call := h.unary(t.Context(), 7)
	request := busy.recvStart()
	waiting := h.unary(t.Context(), 9)
	testkit.Eventually(t, func() error {
		if tunnel.Waiting(h.server, 9) == 0 {
			return errors.New("does not wait")
		}
		return nil
	})
	h.stop()
	refuses(t, idle.ending(), codes.Unavailable, "kas is shutting down")
	refuses(t, silent.ending(), codes.Unavailable, "kas is shutting down")
	refuses(t, <-waiting, codes.Unavailable, "kas is shutting down")
	refuses(t, <-h.unary(t.Context(), 7), codes.Unavailable, "kas is shutting down")
	refuses(t, h.open("agent-7").ending(), codes.Unavailable, "kas is shutting down")
	select {
	case err := <-h.ran:
		t.Fatal("Run has returned with an RPC going on", err)
	default:
	}
	busy.send(answer(request.GetRpc(), &testgrpc.SimpleResponse{}))
	require.NoError(t, <-call)
	refuses(t, busy.ending(), codes.Unavailable, "kas is shutting down")
	err := <-h.ran
	h.ran <- err
	require.NoError(t, err)
}

func TestConn_DeadlineCrosses(t *testing.T) {
	h := start(t)
	st := h.connect()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	call := h.unary(ctx, 7)
	request := st.recvStart()
	require.InDelta(t, time.Hour.Seconds(), request.GetStart().GetTimeout().AsDuration().Seconds(), 60)
	st.send(trailers(request.GetRpc(), codes.NotFound))
	require.Equal(t, codes.NotFound, status.Code(<-call))
}

func TestConn_CallerLeaves(t *testing.T) {
	for name, call := range map[string]func(*harness, context.Context) error{
		"unary": func(h *harness, ctx context.Context) error { return <-h.unary(ctx, 7) },
		"streaming": func(h *harness, ctx context.Context) error {
			both, err := h.client(7).FullDuplexCall(ctx)
			require.NoError(t, err)
			_, err = both.Recv()
			return err
		},
		"server streaming": func(h *harness, ctx context.Context) error {
			out, err := h.client(7).StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{})
			require.NoError(t, err)
			_, err = out.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			st := h.connect()
			for n := range uint64(2) { // the stream is reused
				ctx, leave := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- call(h, ctx) }()
				require.Equal(t, n+1, st.recvStart().GetRpc())
				leave()
				require.Equal(t, codes.Canceled, status.Code(<-ended))
				request := st.recv()
				require.True(t, request.GetCancel())
				require.Equal(t, n+1, request.GetRpc())
				for range 3 { // what the agent has under way
					st.send(&agentrpc.TunnelResponse{Rpc: n + 1, Messages: []*agentrpc.TunnelMessage{{Data: make([]byte, tunnelwire.FrameSize)}}})
				}
				h.await(0, 1)
				st.send(trailers(n+1, codes.Canceled))
				h.await(1, 0)
			}
			// An agent that does not end its RPC loses the stream.
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- call(h, ctx) }()
			st.recvStart()
			leave()
			require.Equal(t, codes.Canceled, status.Code(<-ended))
			require.True(t, st.recv().GetCancel())
			over := make(chan error, 1)
			go func() { over <- st.ending() }()
			stepUntil(h, 10*time.Second, over, func(err error) { refuses(t, err, codes.DeadlineExceeded, "did not end an RPC") })
		})
	}
}

func TestConn_CallerWhoSendsToAnAgentThatDoesNotReadCanLeave(t *testing.T) {
	large := &testgrpc.StreamingOutputCallRequest{Payload: payload(3 << 20)}
	for name, call := range map[string]func(*harness, context.Context) error{
		"unary": func(h *harness, ctx context.Context) error {
			_, err := h.client(7).UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: large.GetPayload()})
			return err
		},
		"streaming": func(h *harness, ctx context.Context) error {
			both, err := h.client(7).FullDuplexCall(ctx)
			require.NoError(t, err)
			if err := both.Send(large); !errors.Is(err, io.EOF) {
				return err
			}
			_, err = both.Recv()
			return err
		},
		"server streaming": func(h *harness, ctx context.Context) error {
			out, err := h.client(7).StreamingOutputCall(ctx, large)
			require.NoError(t, err)
			_, err = out.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			st := h.connect()
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- call(h, ctx) }()
			st.recvStart()
			testkit.Eventually(t, heldUp)
			leave()
			stepUntil(h, time.Second, ended, func(err error) { require.Equal(t, codes.Canceled, status.Code(err)) })
			testkit.Eventually(t, func() error {
				h.clock.Step(time.Second)
				if got := h.streams(); got != [2]float64{} {
					return fmt.Errorf("%v", got)
				}
				return nil
			})
			// It does not read, or it does not end the RPC: the cancel may just have got through.
			require.Equal(t, codes.DeadlineExceeded, status.Code(st.ending()))
		})
	}
}

// Nobody steps the clock: it is not by a timeout that they get on.
func TestConn_UnaryCallerNeedNotWaitForAnAgentThatDoesNotRead(t *testing.T) {
	begin := func(t *testing.T) (h *harness, st *stream, leave func(), ended <-chan error) {
		t.Helper()
		h = start(t)
		st = h.connect()
		ctx, leave := context.WithCancel(t.Context())
		t.Cleanup(leave)
		returned := make(chan error, 1)
		go func() {
			_, err := h.client(7).UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(3 << 20)})
			returned <- err
		}()
		st.recvStart()
		testkit.Eventually(t, heldUp)
		return h, st, leave, returned
	}
	t.Run("to leave", func(t *testing.T) {
		_, _, leave, ended := begin(t)
		leave()
		require.Equal(t, codes.Canceled, status.Code(<-ended))
	})
	t.Run("to have its answer", func(t *testing.T) {
		h, st, _, ended := begin(t)
		st.send(answer(1, &testgrpc.SimpleResponse{}))
		require.NoError(t, <-ended)
		h.await(0, 1) // no other RPC may have the stream yet
		go func() { _ = st.ending() }()
		h.await(1, 0)
	})
}

func TestConn_AgentEndsTheRPCWhileTheCallerSends(t *testing.T) {
	begin := func(h *harness) (st *stream, sent <-chan error, ended <-chan error) {
		st = h.connect()
		both, err := h.client(7).FullDuplexCall(h.t.Context())
		require.NoError(h.t, err)
		st.recvStart()
		sending, receiving := make(chan error, 1), make(chan error, 1)
		go func() { sending <- both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(3 << 20)}) }()
		testkit.Eventually(h.t, heldUp)
		go func() { _, err := both.Recv(); receiving <- err }()
		st.send(trailers(1, codes.NotFound))
		return st, sending, receiving
	}
	t.Run("and reads what it no longer wants", func(t *testing.T) {
		h := start(t)
		st, sent, ended := begin(h)
		require.Equal(t, codes.NotFound, status.Code(<-ended))
		h.await(0, 1) // no other RPC may have the stream yet
		go func() { _ = st.ending() }()
		require.ErrorIs(t, <-sent, io.EOF)
		h.await(1, 0)
	})
	t.Run("and reads nothing", func(t *testing.T) {
		h := start(t)
		st, sent, ended := begin(h)
		require.Equal(t, codes.NotFound, status.Code(<-ended))
		stepUntil(h, 10*time.Second, sent, func(err error) { require.ErrorIs(t, err, io.EOF) })
		refuses(t, st.ending(), codes.DeadlineExceeded, "does not read")
	})
}

// atWork is the head of a goroutine's stack that waits for nobody.
var atWork = regexp.MustCompile(`(?m)^goroutine \d+ .*\[(running|runnable)`)

// heldUp is nil when somebody waits for an agent to read, and will until it does: nobody is
// at work who could still make room.
func heldUp() error {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if !bytes.Contains(stacks, []byte("(*writeQuota).get")) {
		return errors.New("nobody is held up")
	}
	if n := len(atWork.FindAll(stacks, -1)); n > 1 { // one is this
		return fmt.Errorf("%d goroutines are at work", n-1)
	}
	return nil
}

func TestConn_SlowReaderHoldsUpItsOwnStreamOnly(t *testing.T) {
	h := start(t)
	const frames = 300 // 18 MiB, more than anything may buffer
	st := h.connect()
	slow, err := h.client(7).StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
	require.NoError(t, err)
	st.recvStart()
	h.agent(1, echo)
	other := make(chan error, 1)
	sent := make(chan int, frames)
	go func() {
		for n := range frames {
			if err := st.rpc.Send(&agentrpc.TunnelResponse{Rpc: 1, Messages: []*agentrpc.TunnelMessage{message(&testgrpc.StreamingOutputCallResponse{Payload: payload(tunnelwire.FrameSize - 10)}, false)}}); err != nil {
				other <- err
				return
			}
			sent <- n
		}
		other <- st.rpc.Send(trailers(1, codes.OK))
	}()
	_, err = slow.Recv()
	require.NoError(t, err)
	for range 20 { // other RPCs go on
		require.NoError(t, <-h.unary(t.Context(), 7))
	}
	require.Less(t, len(sent), frames/2, "too much is buffered")
	got := 1
	for ; err == nil; got++ {
		_, err = slow.Recv()
	}
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, frames, got-1)
	require.NoError(t, <-other)
}

func TestConn_AgentGoesAway(t *testing.T) {
	for name, leave := range map[string]func(*stream){
		"by breaking off": func(st *stream) { st.end() },
		"by closing":      func(st *stream) { require.NoError(t, st.rpc.CloseSend()) },
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			st := h.connect()
			call := h.unary(t.Context(), 7)
			st.recvStart()
			leave(st)
			refuses(t, <-call, codes.Unavailable, "agent 7 went away in the middle of the call")
			h.await(0, 0)
		})
	}
	h := start(t)
	idle := h.connect()
	idle.end()
	h.await(0, 0)
}

func TestConn_AgentBreaksTheRules(t *testing.T) {
	headers, part := &agentrpc.TunnelHeaders{}, []*agentrpc.TunnelMessage{{Data: []byte("x"), More: true}}
	stale := make([]*agentrpc.TunnelResponse, 17)
	for i := range stale {
		stale[i] = &agentrpc.TunnelResponse{Rpc: 1}
	}
	huge := []*agentrpc.TunnelResponse{}
	for range tunnelwire.MaxMessage/tunnelwire.FrameSize + 1 {
		huge = append(huge, &agentrpc.TunnelResponse{Rpc: 2, Messages: []*agentrpc.TunnelMessage{{Data: make([]byte, tunnelwire.FrameSize), More: true}}})
	}
	for name, frames := range map[string][]*agentrpc.TunnelResponse{
		"hello again":              {hello(1, testService)},
		"an RPC to come":           {{Rpc: 3, Headers: headers}},
		"no RPC":                   {{Headers: headers}},
		"headers twice":            {{Rpc: 2, Headers: headers}, {Rpc: 2, Headers: headers}},
		"headers after a message":  {{Rpc: 2, Messages: part}, {Rpc: 2, Headers: headers}},
		"an end within a message":  {{Rpc: 2, Messages: part, Trailers: &agentrpc.TunnelTrailers{}}},
		"a flood of what is over":  stale,
		"a message without an end": huge,
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			st := h.connect()
			call := h.unary(t.Context(), 7)
			st.recvStart()
			st.send(answer(1, &testgrpc.SimpleResponse{}))
			require.NoError(t, <-call)
			call = h.unary(t.Context(), 7)
			st.recvStart()
			for _, f := range frames {
				st.send(f)
			}
			refuses(t, <-call, codes.Unavailable, "agent 7 broke the tunnel's rules")
			require.Equal(t, codes.InvalidArgument, status.Code(st.ending()))
			h.await(0, 0)
		})
	}
}

func TestConn_WhatIsLateIsDropped(t *testing.T) {
	h := start(t)
	st := h.connect()
	for n := uint64(1); n < 4; n++ {
		call := h.unary(t.Context(), 7)
		st.recvStart()
		if n > 1 {
			st.send(&agentrpc.TunnelResponse{Rpc: n - 1, Messages: []*agentrpc.TunnelMessage{{Data: []byte("late")}}, Trailers: &agentrpc.TunnelTrailers{Code: 5}})
		}
		st.send(&agentrpc.TunnelResponse{}) // what a newer agent may say about no RPC
		st.send(answer(n, &testgrpc.SimpleResponse{}))
		require.NoError(t, <-call)
	}
}

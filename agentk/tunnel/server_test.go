package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

func TestServer_SaysWhatItIsAndOffers(t *testing.T) {
	hello := start(t, &service{}, nil).stream(t).hello
	require.Equal(t, "agentk-0", hello.GetAgentMeta().GetPodName())
	require.Equal(t, []string{testpb.TestService_ServiceDesc.ServiceName}, hello.GetServices())
}

func TestServer_UnaryIsOneFrame(t *testing.T) {
	r := start(t, &service{unary: func(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if method, ok := grpc.Method(ctx); !ok || method != unaryCall || len(md) != 1 || md.Get("kas-a")[0] != "b" {
			return nil, status.Errorf(codes.FailedPrecondition, "%s, %v", method, md)
		}
		if err := errors.Join(grpc.SetHeader(ctx, metadata.Pairs("kas-head", "h", "cookie", "c")),
			grpc.SetTrailer(ctx, metadata.Pairs("kas-tail", "t", "authorization", "c"))); err != nil {
			return nil, err
		}
		return &testpb.SimpleResponse{Payload: req.GetPayload()}, nil
	}}, nil)
	s := r.stream(t)
	for n := uint64(1); n <= 3; n++ {
		request := whole(t, n, unaryCall, &testpb.SimpleRequest{Payload: payload(10)})
		request.Start.Metadata = []*agentrpc.TunnelMetadata{
			{Key: "kas-a", Values: [][]byte{[]byte("b")}}, {Key: "authorization", Values: [][]byte{[]byte("secret")}},
		}
		s.send(t, request)
		a := s.answer(t, n)
		require.Len(t, a.frames, 1, a.frames)
		require.NoError(t, tunnelwire.ToError(a.trailers()))
		require.Equal(t, metadata.Pairs("kas-head", "h"), tunnelwire.ToMD(a.frames[0].GetHeaders().GetMetadata()))
		require.Equal(t, metadata.Pairs("kas-tail", "t"), tunnelwire.ToMD(a.trailers().GetMetadata()))
		got := &testpb.SimpleResponse{}
		require.NoError(t, proto.Unmarshal(a.messages[0], got))
		require.True(t, proto.Equal(payload(10), got.GetPayload()))
	}
	require.InEpsilon(t, 3, r.counted(unaryCall, "OK"), 0)
}

func TestServer_AnswersEveryShape(t *testing.T) {
	r := start(t, &service{}, nil)
	s := r.stream(t)
	s.send(t, whole(t, 1, download, &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 2}, {}}}))
	a := s.answer(t, 1)
	require.NoError(t, tunnelwire.ToError(a.trailers()))
	require.Len(t, a.messages, 3)

	s.send(t,
		&agentrpc.TunnelRequest{Rpc: 2, Start: &agentrpc.TunnelStart{Method: upload}},
		&agentrpc.TunnelRequest{Rpc: 2, Messages: parts(t, input(5), input(6))},
		&agentrpc.TunnelRequest{Rpc: 2, Messages: parts(t, input(7)), HalfClose: true})
	a = s.answer(t, 2)
	sum := &testpb.StreamingInputCallResponse{}
	require.NoError(t, proto.Unmarshal(a.messages[0], sum))
	require.EqualValues(t, 18, sum.GetAggregatedPayloadSize())

	s.send(t, &agentrpc.TunnelRequest{Rpc: 3, Start: &agentrpc.TunnelStart{Method: fullDuplex}})
	for size := range 5 {
		s.send(t, &agentrpc.TunnelRequest{Rpc: 3, Messages: parts(t, &testpb.StreamingOutputCallRequest{Payload: payload(size)})})
		m, err := s.Recv() // before the next is sent
		require.NoError(t, err)
		got := &testpb.StreamingOutputCallResponse{}
		require.NoError(t, proto.Unmarshal(m.GetMessages()[0].GetData(), got))
		require.Len(t, got.GetPayload().GetBody(), size)
	}
	s.send(t, &agentrpc.TunnelRequest{Rpc: 3, HalfClose: true})
	require.NoError(t, tunnelwire.ToError(s.answer(t, 3).trailers()))
}

func TestServer_HeadersComeWhenTheyAreSent(t *testing.T) {
	release := make(chan struct{})
	late := make(chan error, 3)
	var finished testpb.TestService_FullDuplexCallServer
	r := start(t, &service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		finished = stream
		if err := stream.SendHeader(metadata.Pairs("kas-a", "b")); err != nil {
			return err
		}
		<-release
		late <- stream.SetHeader(metadata.Pairs("kas-c", "d"))
		return stream.Send(output(1))
	}}, nil)
	s := r.stream(t)
	s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}})
	m, err := s.Recv()
	require.NoError(t, err)
	require.Equal(t, metadata.Pairs("kas-a", "b"), tunnelwire.ToMD(m.GetHeaders().GetMetadata()))
	close(release)
	a := s.answer(t, 1)
	require.Error(t, <-late)
	for _, m := range a.frames {
		require.Nil(t, m.GetHeaders(), "they came twice")
	}
	require.Error(t, finished.Send(output(1)), "the handler had returned")
	require.Error(t, finished.SendHeader(nil))
}

func TestServer_UnaryHeadersCanBeSentEarly(t *testing.T) {
	release := make(chan struct{})
	s := start(t, &service{empty: func(ctx context.Context) error {
		defer func() { <-release }()
		return grpc.SendHeader(ctx, nil)
	}}, nil).stream(t)
	s.send(t, whole(t, 1, emptyCall, &testpb.Empty{}))
	m, err := s.Recv()
	require.NoError(t, err)
	require.NotNil(t, m.GetHeaders())
	require.Nil(t, m.GetTrailers())
	close(release)
	require.NoError(t, tunnelwire.ToError(s.answer(t, 1).trailers()))
}

func TestServer_LargeMessagesAreCut(t *testing.T) {
	const size = 3<<20 + 5
	s := start(t, &service{}, nil).stream(t)
	cut := parts(t, &testpb.SimpleRequest{Payload: payload(size)})
	s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: unaryCall}})
	for i, part := range cut {
		s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Messages: []*agentrpc.TunnelMessage{part}, HalfClose: i == len(cut)-1})
	}
	a := s.answer(t, 1)
	require.NoError(t, tunnelwire.ToError(a.trailers()))
	for _, m := range a.frames {
		require.Len(t, m.GetMessages(), 1)
		require.LessOrEqual(t, len(m.GetMessages()[0].GetData()), tunnelwire.FrameSize)
	}
	got := &testpb.SimpleResponse{}
	require.NoError(t, proto.Unmarshal(a.messages[0], got))
	require.True(t, bytes.Equal(payload(size).GetBody(), got.GetPayload().GetBody()))
}

func TestServer_EndsOfRPCs(t *testing.T) {
	r := start(t, &service{
		empty: func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); bounded {
				<-ctx.Done()
				return fmt.Errorf("look: %w", ctx.Err())
			}
			return status.Error(codes.NotFound, "no such thing")
		},
		unary: func(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			if req.GetFillUsername() {
				panic("a fault")
			}
			return &testpb.SimpleResponse{Payload: payload(int(req.GetResponseSize()))}, nil
		},
	}, nil)
	s := r.stream(t)
	timeout := whole(t, 0, emptyCall, &testpb.Empty{})
	timeout.Start.Timeout = durationpb.New(time.Millisecond)
	over := whole(t, 0, emptyCall, &testpb.Empty{})
	over.Start.Timeout = durationpb.New(-time.Hour)
	for i, row := range []struct {
		name    string
		request *agentrpc.TunnelRequest
		code    codes.Code
		text    string
		label   string
	}{
		{"the handler's status", whole(t, 0, emptyCall, &testpb.Empty{}), codes.NotFound, "no such thing", emptyCall},
		{"the deadline", timeout, codes.DeadlineExceeded, "deadline exceeded", emptyCall},
		{"a deadline in the past", over, codes.DeadlineExceeded, "deadline exceeded", emptyCall},
		{"a panic", whole(t, 0, unaryCall, &testpb.SimpleRequest{FillUsername: true}), codes.Internal, "a fault in agentk", unaryCall},
		{"too large an answer", whole(t, 0, unaryCall, &testpb.SimpleRequest{ResponseSize: tunnelwire.MaxMessage}), codes.ResourceExhausted, "larger than", unaryCall},
		{"no such method", whole(t, 0, "/grpc.testing.TestService/Nonsense", &testpb.Empty{}), codes.Unimplemented, `no method "/grpc.testing.TestService/Nonsense"`, "unknown"},
		{"no such service", whole(t, 0, "/nonsense/Nonsense", &testpb.Empty{}), codes.Unimplemented, "no method", "unknown"},
		{"an empty method", whole(t, 0, "", &testpb.Empty{}), codes.Unimplemented, "no method", "unknown"},
		{"a request that is none", &agentrpc.TunnelRequest{Start: &agentrpc.TunnelStart{Method: unaryCall}, Messages: []*agentrpc.TunnelMessage{{Data: []byte{0xff}}}, HalfClose: true}, codes.Internal, "request of", unaryCall},
		{"no request", &agentrpc.TunnelRequest{Start: &agentrpc.TunnelStart{Method: unaryCall}, HalfClose: true}, codes.Internal, "no request message", unaryCall},
		{"cancelled at once", &agentrpc.TunnelRequest{Start: &agentrpc.TunnelStart{Method: unaryCall}, Cancel: true}, codes.Canceled, "canceled", unaryCall},
		{"a method that does nothing", &agentrpc.TunnelRequest{Start: &agentrpc.TunnelStart{Method: testpb.TestService_HalfDuplexCall_FullMethodName}}, codes.Unimplemented, "not implemented", testpb.TestService_HalfDuplexCall_FullMethodName},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := r.counted(row.label, row.code.String())
			row.request.Rpc = uint64(i + 1)
			s.send(t, row.request)
			err := tunnelwire.ToError(s.answer(t, row.request.GetRpc()).trailers())
			require.Equal(t, row.code, status.Code(err), err)
			require.ErrorContains(t, err, row.text)
			require.InEpsilon(t, before+1, r.counted(row.label, row.code.String()), 0)
		})
	}
	panics := r.logs.FilterMessage("Handler of an RPC from kas panicked").All()
	require.Len(t, panics, 1)
	require.Contains(t, panics[0].ContextMap()["stack"], "server_test.go")
	require.Empty(t, r.failures, "the stream has gone on")
}

func TestServer_CancelEndsTheHandlersContext(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, &service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		entered <- struct{}{}
		_, err := stream.Recv()
		return err
	}}, nil)
	s := r.stream(t)
	for n := uint64(1); n <= 3; n++ {
		s.send(t, &agentrpc.TunnelRequest{Rpc: n, Start: &agentrpc.TunnelStart{Method: fullDuplex}})
		<-entered
		// What comes for those that have ended is dropped, whatever it is.
		for old := uint64(1); old < n; old++ {
			s.send(t, &agentrpc.TunnelRequest{Rpc: old, Cancel: true},
				&agentrpc.TunnelRequest{Rpc: old, HalfClose: true},
				&agentrpc.TunnelRequest{Rpc: old, Messages: parts(t, input(1))})
		}
		r.await(t, 1, 1)
		s.send(t, &agentrpc.TunnelRequest{Rpc: n, Cancel: true})
		require.Equal(t, codes.Canceled, status.Code(tunnelwire.ToError(s.answer(t, n).trailers())))
	}
	require.Empty(t, r.failures)
}

func TestServer_SendsNoMoreForWhoHasGone(t *testing.T) {
	sent := make(chan error, 1)
	r := start(t, &service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		<-stream.Context().Done()
		sent <- stream.Send(output(1))
		return nil
	}}, nil)
	s := r.stream(t)
	s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}}, &agentrpc.TunnelRequest{Rpc: 1, Cancel: true})
	require.Equal(t, codes.Canceled, status.Code(<-sent))
	require.Empty(t, s.answer(t, 1).messages)
}

// A handler that reads nothing holds kas back, and only on its own stream.
func TestServer_HandlerThatDoesNotRead(t *testing.T) {
	read, got := make(chan struct{}), make(chan int, 1)
	r := start(t, &service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		<-read
		n := 0
		for _, err := stream.Recv(); err == nil; _, err = stream.Recv() {
			n++
		}
		got <- n
		return nil
	}}, nil)
	s := r.stream(t)
	s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}, IdleStreams: proto.Uint32(1)})
	const messages = 40 // of 64 KiB: more than the inbox and HTTP/2's window
	stuck := make(chan error, 1)
	part := parts(t, &testpb.StreamingOutputCallRequest{Payload: payload(tunnelwire.FrameSize - 10)})
	go func() {
		for range messages {
			if err := s.Send(&agentrpc.TunnelRequest{Rpc: 1, Messages: part}); err != nil {
				stuck <- err
				return
			}
		}
		stuck <- s.Send(&agentrpc.TunnelRequest{Rpc: 1, HalfClose: true})
	}()
	awaitFull(t, r)
	other := r.stream(t)
	other.send(t, whole(t, 1, unaryCall, &testpb.SimpleRequest{}))
	other.answer(t, 1)
	// It is asked now and then whether the stream goes on, which it does.
	r.clock.Step(probeInterval)
	m, err := s.Recv()
	require.NoError(t, err)
	require.True(t, proto.Equal(&agentrpc.TunnelResponse{Rpc: 1}, m), m)
	require.Empty(t, stuck)
	close(read)
	require.NoError(t, <-stuck)
	require.Equal(t, messages, <-got)
	s.answer(t, 1)
}

// The end of a stream that is not being received from is noticed nevertheless.
func TestServer_EndOfAStreamThatIsFull(t *testing.T) {
	ended := make(chan struct{})
	r := start(t, &service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		<-stream.Context().Done()
		close(ended)
		return nil
	}}, nil)
	s := r.stream(t)
	s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}})
	part := parts(t, &testpb.StreamingOutputCallRequest{Payload: payload(tunnelwire.FrameSize - 10)})
	for range maxInbox/tunnelwire.FrameSize + 1 {
		s.send(t, &agentrpc.TunnelRequest{Rpc: 1, Messages: part})
	}
	awaitFull(t, r)
	s.end <- status.Error(codes.Unavailable, "it takes too long")
	eventually(t, func() bool {
		select {
		case <-ended:
			return true
		default:
			r.clock.Step(probeInterval)
			return false
		}
	})
	require.ErrorContains(t, r.failure(t), "it takes too long")
}

// awaitFull waits until the Server waits for a handler.
func awaitFull(t *testing.T, r *rig) {
	t.Helper()
	eventually(t, r.clock.HasWaiters)
}

func TestServer_BrokenRulesEndTheStream(t *testing.T) {
	begun := &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}}
	part := func(size int, more bool) []*agentrpc.TunnelMessage {
		return []*agentrpc.TunnelMessage{{Data: make([]byte, size), More: more}}
	}
	large := func() (out []*agentrpc.TunnelRequest) {
		out = append(out, begun)
		for range tunnelwire.MaxMessage/tunnelwire.FrameSize + 1 {
			out = append(out, &agentrpc.TunnelRequest{Rpc: 1, Messages: part(tunnelwire.FrameSize, true)})
		}
		return out
	}
	for _, row := range []struct {
		name   string
		frames []*agentrpc.TunnelRequest
		text   string
	}{
		{"an RPC goes on that has not begun", []*agentrpc.TunnelRequest{{Rpc: 1, HalfClose: true}}, "has not begun"},
		{"an RPC has no number", []*agentrpc.TunnelRequest{{Start: begun.GetStart()}}, "about no RPC"},
		{"nothing is cancelled", []*agentrpc.TunnelRequest{{Cancel: true}}, "about no RPC"},
		{"an RPC begins twice", []*agentrpc.TunnelRequest{begun, begun}, "RPC 1 begins after RPC 1"},
		{"an RPC begins while another runs", []*agentrpc.TunnelRequest{begun, {Rpc: 2, Start: begun.GetStart()}}, "before RPC 1 has ended"},
		{"a message comes after the last", []*agentrpc.TunnelRequest{{Rpc: 1, Start: begun.GetStart(), HalfClose: true}, {Rpc: 1, Messages: part(1, false)}}, "after its half-close"},
		{"there are two ends", []*agentrpc.TunnelRequest{{Rpc: 1, Start: begun.GetStart(), HalfClose: true}, {Rpc: 1, HalfClose: true}}, "after its half-close"},
		{"half a message at the end", []*agentrpc.TunnelRequest{{Rpc: 1, Start: begun.GetStart(), Messages: part(1, true), HalfClose: true}}, "in the middle of a message"},
		{"a message is too large", large(), "larger than"},
		{"a timeout makes no sense", []*agentrpc.TunnelRequest{{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex, Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}}}, "timeout"},
	} {
		t.Run(row.name, func(t *testing.T) {
			hold := make(chan struct{})
			defer close(hold)
			r := start(t, &service{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
				<-stream.Context().Done()
				return nil
			}}, nil)
			s := r.stream(t)
			for _, m := range row.frames {
				if s.Send(m) != nil {
					break // it has ended already
				}
			}
			err := r.failure(t)
			require.Equal(t, codes.Internal, status.Code(err), err)
			require.ErrorContains(t, err, row.text)
			require.ErrorContains(t, err, "kas broke the rules")
			<-s.Context().Done()
			r.await(t, 1, 0) // another stream, and the handler has not held it up
		})
	}
}

func TestServer_RunEndsHandlersAndStreams(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, &service{empty: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}}, nil)
	s := r.stream(t)
	s.send(t, whole(t, 1, emptyCall, &testpb.Empty{}))
	<-entered
	r.await(t, 1, 1)
	r.stop()
	require.Empty(t, r.failures)
	require.NoError(t, testutil.GatherAndCompare(r.registry, strings.NewReader(`
# HELP agentk_tunnel_streams Streams of the reverse tunnel that are open, by state (idle, busy).
# TYPE agentk_tunnel_streams gauge
agentk_tunnel_streams{state="busy"} 0
agentk_tunnel_streams{state="idle"} 0
`), "agentk_tunnel_streams"))
}

func TestServer_WithoutServices(t *testing.T) {
	s := NewServer(Config{}) // it has no client to open anything with
	require.NoError(t, s.Run(t.Context()))
	testpb.RegisterTestServiceServer(s, &service{})
	testpb.RegisterTestServiceServer(s, &service{})
	require.ErrorIs(t, s.Run(t.Context()), errTwice)
	require.True(t, slices.IsSorted(s.services))
}

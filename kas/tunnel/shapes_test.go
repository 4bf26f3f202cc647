package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

func payload(size int) *testgrpc.Payload {
	return &testgrpc.Payload{Body: bytes.Repeat([]byte{7}, size)}
}

func TestConn_CarriesEveryShapeOfRPC(t *testing.T) {
	h := start(t)
	h.agent(1, echo)
	client := h.client(7)
	for _, size := range []int{0, 100, tunnelwire.FrameSize, 3 << 20} {
		got, err := client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: payload(size)})
		require.NoError(t, err)
		require.Len(t, got.GetPayload().GetBody(), size)

		out, err := client.StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{
			ResponseParameters: []*testgrpc.ResponseParameters{{Size: int32(size)}, {Size: 1}, {Size: 2}},
		})
		require.NoError(t, err)
		for _, want := range []int{size, 1, 2} {
			message, err := out.Recv()
			require.NoError(t, err)
			require.Len(t, message.GetPayload().GetBody(), want)
		}
		_, err = out.Recv()
		require.ErrorIs(t, err, io.EOF)

		in, err := client.StreamingInputCall(t.Context())
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, in.Send(&testgrpc.StreamingInputCallRequest{Payload: payload(size)}))
		}
		total, err := in.CloseAndRecv()
		require.NoError(t, err)
		require.EqualValues(t, 3*size, total.GetAggregatedPayloadSize())

		both, err := client.FullDuplexCall(t.Context())
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(size)}))
			message, err := both.Recv()
			require.NoError(t, err)
			require.Len(t, message.GetPayload().GetBody(), size)
		}
		require.NoError(t, both.CloseSend())
		_, err = both.Recv()
		require.ErrorIs(t, err, io.EOF)
		_, err = both.Recv()
		require.ErrorIs(t, err, io.EOF)
	}
	require.InDelta(t, 4, h.value("kas_tunnel_rpcs_total", "OK", "/grpc.testing.TestService/FullDuplexCall"), 0)
	require.InDelta(t, 4, h.value("kas_tunnel_rpcs_total", "OK", "/grpc.testing.TestService/UnaryCall"), 0)
	require.Greater(t, h.value("kas_tunnel_bytes_total", "to_agent"), float64(7*(3<<20)))
	require.Greater(t, h.value("kas_tunnel_bytes_total", "from_agent"), float64(4*(3<<20)))
}

func TestConn_HeadersAreNotAwaitedBeyondTheFirstMessage(t *testing.T) {
	h := start(t)
	h.agent(1, echo) // which sends none
	both, err := h.client(7).FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(1)}))
	header, err := both.Header()
	require.NoError(t, err)
	require.Empty(t, header)
	_, err = both.Recv()
	require.NoError(t, err)
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.ErrorIs(t, err, io.EOF)
}

func TestConn_UnaryRPCIsOneFrameAndStreamIsReused(t *testing.T) {
	h := start(t)
	st := h.connect()
	done := make(chan error, 1)
	for n := range uint64(3) {
		go func() {
			_, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: payload(5)})
			done <- err
		}()
		request := st.recv()
		require.Equal(t, n+1, request.GetRpc())
		require.Equal(t, "/grpc.testing.TestService/UnaryCall", request.GetStart().GetMethod())
		require.Len(t, request.GetMessages(), 1)
		require.True(t, request.GetHalfClose())
		require.Nil(t, request.GetStart().GetTimeout())
		st.send(answer(request.GetRpc(), &testgrpc.SimpleResponse{}))
		require.NoError(t, <-done)
	}
}

func TestConn_EmptyMessagesAreMessages(t *testing.T) {
	h := start(t)
	h.agent(1, echo)
	_, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
	require.NoError(t, err)
	out, err := h.client(7).StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
	require.NoError(t, err)
	_, err = out.Recv()
	require.ErrorIs(t, err, io.EOF)
	both, err := h.client(7).FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
	_, err = both.Recv()
	require.NoError(t, err)
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.ErrorIs(t, err, io.EOF)
}

func TestConn_RawMessagesAreHandedOn(t *testing.T) {
	h := start(t)
	h.agent(1, echo)
	data, err := proto.Marshal(&testgrpc.SimpleRequest{Payload: payload(10)})
	require.NoError(t, err)
	var got grpctool.Raw
	err = h.server.Conn(7).Invoke(t.Context(), "/grpc.testing.TestService/UnaryCall", &grpctool.Raw{Data: data}, &got, grpc.ForceCodecV2(grpctool.RawCodec()))
	require.NoError(t, err)
	var response testgrpc.SimpleResponse
	require.NoError(t, proto.Unmarshal(got.Data, &response))
	require.Len(t, response.GetPayload().GetBody(), 10)
}

func TestConn_MetadataCrossesByAllowList(t *testing.T) {
	h := start(t)
	seen := make(chan metadata.MD, 2)
	h.agent(1, func(r *handling) error {
		seen <- rawMD(r)
		if err := r.header(metadata.MD{"kas-h": {"1"}, "authorization": {"x"}, "set-cookie": {"x"}}); err != nil {
			return err
		}
		r.trailer = metadata.MD{"kas-t-bin": {"\x00"}, "authorization": {"x"}}
		return r.send(&testgrpc.SimpleResponse{})
	})
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{
		"authorization": {"Bearer secret"}, "private-token": {"secret"}, "cookie": {"secret"}, "kas-thing": {"a", "b"}, "traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	})
	ctx = metadata.AppendToOutgoingContext(ctx, "Authorization", "Bearer secret")
	want := metadata.MD{"kas-thing": {"a", "b"}, "traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}
	var header, trailer metadata.MD
	_, err := h.client(7).UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	require.NoError(t, err)
	require.Equal(t, want, <-seen)
	require.Equal(t, metadata.MD{"kas-h": {"1"}}, header)
	require.Equal(t, metadata.MD{"kas-t-bin": {"\x00"}}, trailer)

	header, trailer = nil, nil
	both, err := h.client(7).FullDuplexCall(ctx, grpc.Header(&header), grpc.Trailer(&trailer))
	require.NoError(t, err)
	require.Equal(t, want, <-seen)
	got, err := both.Header()
	require.NoError(t, err)
	require.Equal(t, metadata.MD{"kas-h": {"1"}}, got)
	_, err = both.Recv()
	require.NoError(t, err)
	_, err = both.Recv()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, metadata.MD{"kas-t-bin": {"\x00"}}, both.Trailer())
	require.Equal(t, metadata.MD{"kas-h": {"1"}}, header)
	require.Equal(t, metadata.MD{"kas-t-bin": {"\x00"}}, trailer)
}

// rawMD is the metadata of an RPC as it came over the wire, before the agent's own filter.
func rawMD(r *handling) metadata.MD {
	md := metadata.MD{}
	for _, entry := range r.start.GetMetadata() {
		for _, v := range entry.GetValues() {
			md.Append(entry.GetKey(), string(v))
		}
	}
	return md
}

func TestConn_StatusCrossesWithDetails(t *testing.T) {
	h := start(t)
	detailed, err := status.New(codes.ResourceExhausted, "too many").WithDetails(&errdetails.RetryInfo{})
	require.NoError(t, err)
	h.agent(1, func(*handling) error { return detailed.Err() })
	for name, call := range map[string]func() error{
		"unary": func() error { _, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); return err },
		"server streaming": func() error {
			out, err := h.client(7).StreamingOutputCall(t.Context(), &testgrpc.StreamingOutputCallRequest{})
			require.NoError(t, err)
			header, err := out.Header()
			require.NoError(t, err)
			require.Nil(t, header)
			_, err = out.Recv()
			return err
		},
		"client streaming": func() error {
			in, err := h.client(7).StreamingInputCall(t.Context())
			require.NoError(t, err)
			_, err = in.CloseAndRecv()
			return err
		},
	} {
		got := status.Convert(call())
		require.True(t, proto.Equal(detailed.Proto(), got.Proto()), "%s: %v", name, got)
	}
	require.InDelta(t, 1, h.value("kas_tunnel_rpcs_total", "ResourceExhausted", "/grpc.testing.TestService/StreamingInputCall"), 0)
}

func TestConn_MessagesThatAreTooLarge(t *testing.T) {
	h := start(t)
	h.agent(2, echo)
	client := h.client(7)
	for name, row := range map[string]struct {
		size int
		opts []grpc.CallOption
	}{
		"more than may cross":           {tunnelwire.MaxMessage + 1, nil},
		"more than the caller sends":    {100, []grpc.CallOption{grpc.MaxCallSendMsgSize(99)}},
		"more than the caller receives": {100, []grpc.CallOption{grpc.MaxCallRecvMsgSize(99)}},
	} {
		_, err := client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: payload(row.size)}, row.opts...)
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "unary, %s: %v", name, err)
		both, err := client.FullDuplexCall(t.Context(), row.opts...)
		require.NoError(t, err)
		if err = both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(row.size)}); err == nil {
			_, err = both.Recv()
		}
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "streaming, %s: %v", name, err)
		require.NoError(t, both.CloseSend())
		for err == nil || !errors.Is(err, io.EOF) && status.Code(err) != codes.ResourceExhausted {
			_, err = both.Recv()
		}
	}
	h.await(2, 0)
}

func TestConn_CallOptions(t *testing.T) {
	h := start(t)
	h.agent(1, echo)
	var from peer.Peer
	finished := make(chan error, 1)
	_, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{}, grpc.WaitForReady(true), grpc.StaticMethod(),
		grpc.Peer(&from), grpc.CallContentSubtype("proto"), grpc.OnFinish(func(err error) { finished <- err }))
	require.NoError(t, err)
	require.NoError(t, <-finished)
	require.Equal(t, "bufconn", from.Addr.Network())
	for name, option := range map[string]grpc.CallOption{
		"credentials":      grpc.PerRPCCredentials(grpctool.TokenCredentials{Token: func() (string, error) { return "t", nil }}),
		"another encoding": grpc.CallContentSubtype("json"),
		"compression":      grpc.UseCompressor("gzip"),
		"somebody else":    grpc.CallAuthority("kas"),
		"no codec":         grpc.ForceCodecV2(nil),
	} {
		_, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{}, option)
		require.Equal(t, codes.Unimplemented, status.Code(err), name)
		_, err = h.client(7).FullDuplexCall(t.Context(), option)
		require.Equal(t, codes.Unimplemented, status.Code(err), name)
	}
	for _, method := range []string{"", "/", "//", "x/y", "/x", "/x/"} {
		err := h.server.Conn(7).Invoke(t.Context(), method, &testgrpc.Empty{}, &testgrpc.Empty{})
		require.Equal(t, codes.Unimplemented, status.Code(err), method)
	}
}

func TestConn_AnswerWithTheWrongNumberOfMessages(t *testing.T) {
	h := start(t)
	count := 0
	h.agent(1, func(r *handling) error {
		for range count {
			if err := r.send(&testgrpc.SimpleResponse{}); err != nil {
				return err
			}
		}
		return nil
	})
	for _, count = range []int{0, 2, 5} {
		_, err := h.client(7).UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
		require.Equal(t, codes.Internal, status.Code(err), "unary, %d: %v", count, err)
		in, err := h.client(7).StreamingInputCall(t.Context())
		require.NoError(t, err)
		_, err = in.CloseAndRecv()
		require.Equal(t, codes.Internal, status.Code(err), "streaming, %d: %v", count, err)
		h.await(1, 0)
	}
}

func TestConn_ManyCallersOfWhomSomeLeave(t *testing.T) {
	h := start(t)
	h.agent(3, echo)
	var g errgroup.Group
	for n := range 20 {
		g.Go(func() error {
			for m := range 30 {
				ctx, leave := context.WithCancel(t.Context())
				leaves := (n+m)%5 == 0
				if leaves {
					go leave() // at some time or other
				}
				got, err := h.client(7).UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(n*100 + m)})
				leave()
				switch {
				case leaves && status.Code(err) == codes.Canceled:
				case err != nil:
					return err
				case len(got.GetPayload().GetBody()) != n*100+m:
					return fmt.Errorf("an answer of %d bytes to another call", len(got.GetPayload().GetBody()))
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	h.await(3, 0)
}

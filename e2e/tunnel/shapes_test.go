package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// Sizes of messages: none, one frame, several, and many.
var some = []int{0, 1, tunnelwire.FrameSize, 100_000, 3 << 20}

func TestTunnel_CarriesEveryShape(t *testing.T) {
	over(t, &service{}, func(t *testing.T, r *rig) {
		t.Helper()
		ctx := t.Context()
		_, err := r.client.EmptyCall(ctx, &testgrpc.Empty{})
		require.NoError(t, err)
		for _, size := range some {
			got, err := r.client.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(size)})
			require.NoError(t, err)
			require.True(t, bytes.Equal(payload(size).GetBody(), got.GetPayload().GetBody()))
		}

		download, err := r.client.StreamingOutputCall(ctx, sizes(some...))
		require.NoError(t, err)
		for _, size := range some {
			got, err := download.Recv()
			require.NoError(t, err)
			require.Len(t, got.GetPayload().GetBody(), size)
		}
		_, err = download.Recv()
		require.ErrorIs(t, err, io.EOF)

		small, total := some[:4], 0
		upload, err := r.client.StreamingInputCall(ctx)
		require.NoError(t, err)
		for _, size := range small {
			total += size
			require.NoError(t, upload.Send(&testgrpc.StreamingInputCallRequest{Payload: payload(size)}))
		}
		sum, err := upload.CloseAndRecv()
		require.NoError(t, err)
		require.EqualValues(t, total, sum.GetAggregatedPayloadSize())

		both, err := r.client.FullDuplexCall(ctx)
		require.NoError(t, err)
		for _, size := range small {
			require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(size)}))
			got, err := both.Recv()
			require.NoError(t, err)
			require.Len(t, got.GetPayload().GetBody(), size)
		}
		require.NoError(t, both.CloseSend())
		_, err = both.Recv()
		require.ErrorIs(t, err, io.EOF)

		_, err = r.client.UnimplementedCall(ctx, &testgrpc.Empty{})
		require.Equal(t, codes.Unimplemented, status.Code(err))
		r.works()
	})
}

func TestTunnel_MetadataCrossesAndCredentialsDoNot(t *testing.T) {
	var came metadata.MD
	s := &service{unary: func(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		came, _ = metadata.FromIncomingContext(ctx)
		answer := metadata.Pairs("kas-answer", "yes", "kas-bytes-bin", "\x00\xff", "authorization", "Bearer agent's", "set-cookie", "secret")
		return &testgrpc.SimpleResponse{}, errors.Join(grpc.SetHeader(ctx, answer), grpc.SetTrailer(ctx, answer))
	}}
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer ror's", "private-token", "secret", "cookie", "secret",
			"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "kas-thing", "a", "kas-thing", "b", "kas-bytes-bin", "\x00\xff")
		var header, trailer metadata.MD
		_, err := r.client.UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
		require.NoError(t, err)
		require.Equal(t, metadata.MD{"traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "kas-thing": {"a", "b"}, "kas-bytes-bin": {"\x00\xff"}}, came)
		want := metadata.MD{"kas-answer": {"yes"}, "kas-bytes-bin": {"\x00\xff"}}
		require.Equal(t, want, header)
		require.Equal(t, want, trailer)
	})
}

func TestTunnel_ErrorsCrossWithTheirDetails(t *testing.T) {
	want, err := status.New(codes.ResourceExhausted, "too much").WithDetails(&errdetails.RetryInfo{})
	require.NoError(t, err)
	s := &service{output: func(stream testgrpc.TestService_StreamingOutputCallServer) error {
		stream.SetTrailer(metadata.Pairs("kas-why", "because"))
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
		return want.Err()
	}}
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		stream, err := r.client.StreamingOutputCall(t.Context(), sizes())
		require.NoError(t, err)
		_, err = stream.Recv()
		require.NoError(t, err, "what was sent before the error comes")
		_, err = stream.Recv()
		require.Equal(t, want.Proto().String(), status.Convert(err).Proto().String())
		require.Equal(t, metadata.MD{"kas-why": {"because"}}, stream.Trailer())
		r.works()
	})
}

func TestTunnel_DeadlinesCross(t *testing.T) {
	ended := make(chan error, 100)
	s := &service{duplex: func(stream testgrpc.TestService_FullDuplexCallServer) error {
		if _, has := stream.Context().Deadline(); !has {
			return status.Error(codes.Internal, "no deadline has come")
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return stream.Context().Err()
	}}
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		timeout := 25 * time.Millisecond
		testkit.Eventually(t, func() error {
			timeout *= 2 // a busy machine may take longer than that to get it to the agent
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			stream, err := r.client.FullDuplexCall(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
			select {
			case err = <-ended:
				require.Error(t, err)
				return nil
			case <-time.After(timeout):
				return fmt.Errorf("an RPC of %s has not been to the agent", timeout)
			}
		})
		r.works()
	})
}

func TestTunnel_CancellationCrosses(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error)
	s := &service{duplex: func(stream testgrpc.TestService_FullDuplexCallServer) error {
		began <- struct{}{}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return stream.Context().Err()
	}}
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		r.works()
		before, _ := r.streams()
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := r.client.FullDuplexCall(ctx)
			require.NoError(t, err)
			<-began
			cancel()
			_, err = stream.Recv()
			require.Equal(t, codes.Canceled, status.Code(err), "%v", err)
			require.ErrorIs(t, <-ended, context.Canceled)
			r.works()
		}
		after, _ := r.streams()
		require.GreaterOrEqual(t, after, before, "streams are used again")
		require.Empty(t, r.ended, "no stream has failed")
	})
}

func TestTunnel_RefusesMessagesThatAreTooLarge(t *testing.T) {
	over(t, &service{}, func(t *testing.T, r *rig) {
		t.Helper()
		_, err := r.client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: payload(tunnelwire.MaxMessage)})
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		r.works()
		_, err = r.client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{ResponseSize: tunnelwire.MaxMessage})
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		r.works()
	})
}

// More RPCs at once than kas ever wants idle streams.
func TestTunnel_ManyAtOnce(t *testing.T) {
	const many = 150
	var mu sync.Mutex
	var inside int
	var all chan struct{}
	s := &service{unary: func(ctx context.Context, req *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		mu.Lock()
		inside++
		if inside == many {
			close(all)
		}
		wait := all
		mu.Unlock()
		select {
		case <-wait:
			return &testgrpc.SimpleResponse{Payload: req.GetPayload()}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		mu.Lock()
		inside, all = 0, make(chan struct{})
		mu.Unlock()
		var g errgroup.Group
		for i := range many {
			g.Go(func() error {
				got, err := r.client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: payload(i)})
				if err == nil && len(got.GetPayload().GetBody()) != i {
					return errors.New("an answer to another question")
				}
				return err
			})
		}
		require.NoError(t, g.Wait())
		r.awaitBusy(0)
		require.Empty(t, r.ended, "no stream has failed")
	})
}

// An RPC whose caller does not read fills its own stream, and no other one.
func TestTunnel_ASlowReaderHoldsUpNobody(t *testing.T) {
	const messages = 60
	sent := make(chan struct{}, 10*messages)
	s := &service{output: func(stream testgrpc.TestService_StreamingOutputCallServer) error {
		for range messages {
			if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: payload(64 << 10)}); err != nil {
				return err
			}
			sent <- struct{}{}
		}
		return nil
	}}
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		for range len(sent) {
			<-sent
		}
		slow := make([]testgrpc.TestService_StreamingOutputCallClient, 2)
		for i := range slow {
			var err error
			slow[i], err = r.client.StreamingOutputCall(t.Context(), sizes())
			require.NoError(t, err)
			_, err = slow[i].Recv()
			require.NoError(t, err)
		}
		for range 100 {
			got, err := r.client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: payload(10_000)})
			require.NoError(t, err)
			require.Len(t, got.GetPayload().GetBody(), 10_000)
		}
		require.Less(t, len(sent), len(slow)*messages/2, "HTTP/2 holds the agent back")
		for _, stream := range slow {
			n := 1
			for ; ; n++ {
				if _, err := stream.Recv(); err != nil {
					require.ErrorIs(t, err, io.EOF)
					break
				}
			}
			require.Equal(t, messages, n, "nothing is lost")
		}
		r.works()
	})
}

package private

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/testkit"
)

func TestNewStream_CarriesEveryShapeOfRPC(t *testing.T) {
	t.Parallel()
	r := start(t)
	ctx := metadata.AppendToOutgoingContext(within(t), "traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "kas-thing", "x", "authorization", "Bearer persons", "cookie", "c")
	for _, size := range []int{0, 1 << 10, 1 << 20} {
		out := &testgrpc.SimpleResponse{}
		header, trailer, err := through{r, 7}.unary(ctx, testgrpc.TestService_UnaryCall_FullMethodName, &testgrpc.SimpleRequest{Payload: payload(size)}, out)
		require.NoError(t, err)
		require.Len(t, out.GetPayload().GetBody(), size)
		require.Equal(t, metadata.Pairs("kas-said", "yes"), header)
		require.Equal(t, metadata.Pairs("kas-said", "yes"), trailer)

		down, err := r.stub(7).StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{
			ResponseParameters: []*testgrpc.ResponseParameters{{Size: int32(size)}, {Size: 1}},
		})
		require.NoError(t, err)
		for _, want := range []int{size, 1} {
			m, err := down.Recv()
			require.NoError(t, err)
			require.Len(t, m.GetPayload().GetBody(), want)
		}
		_, err = down.Recv()
		require.ErrorIs(t, err, io.EOF)
		header, err = down.Header()
		require.NoError(t, err)
		require.Equal(t, metadata.Pairs("kas-said", "yes"), header)
		require.Equal(t, metadata.Pairs("kas-said", "yes"), down.Trailer())

		up, err := r.stub(7).StreamingInputCall(ctx)
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, up.Send(&testgrpc.StreamingInputCallRequest{Payload: payload(size)}))
		}
		total, err := up.CloseAndRecv()
		require.NoError(t, err)
		require.EqualValues(t, 3*size, total.GetAggregatedPayloadSize())

		both, err := r.stub(7).FullDuplexCall(ctx)
		require.NoError(t, err)
		for range 3 {
			require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(size)}))
			m, err := both.Recv()
			require.NoError(t, err)
			require.Len(t, m.GetPayload().GetBody(), size)
		}
		require.NoError(t, both.CloseSend())
		_, err = both.Recv()
		require.ErrorIs(t, err, io.EOF)
	}
	require.EqualValues(t, 3, r.unary.Load())
	for _, md := range r.agent.heard {
		require.Equal(t, []string{"x"}, md.Get("kas-thing"))
		require.Equal(t, []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, md.Get("traceparent"))
		for _, key := range []string{"authorization", "cookie", keyAgent, keyShape} {
			require.Empty(t, md.Get(key), key)
		}
	}
}

func TestNewStream_CarriesStatusDeadlineAndCancellation(t *testing.T) {
	t.Parallel()
	r := start(t)
	_, err := r.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{ResponseStatus: &testgrpc.EchoStatus{Code: 5, Message: "no such thing"}})
	require.Equal(t, status.Error(codes.NotFound, "no such thing").Error(), err.Error())
	require.False(t, notBegun(err), "the agent itself may not say so")

	timeout := 25 * time.Millisecond
	testkit.Eventually(t, func() error {
		timeout *= 2
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := r.stub(7).UnaryCall(ctx, &testgrpc.SimpleRequest{FillUsername: true})
		require.Equal(t, codes.DeadlineExceeded, status.Code(err), "%v", err)
		select {
		case <-r.agent.waiting:
			<-r.agent.waiting // the agent knows it, too
			return nil
		case <-time.After(timeout):
			return fmt.Errorf("within %s the agent had not heard of it", timeout)
		}
	})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	both, err := r.stub(7).FullDuplexCall(ctx)
	require.NoError(t, err)
	require.NoError(t, both.Send(&testgrpc.StreamingOutputCallRequest{}))
	_, err = both.Recv()
	require.NoError(t, err)
	cancel()
	_, err = both.Recv()
	require.Equal(t, codes.Canceled, status.Code(err))
	<-r.agent.waiting
}

func TestNewStream_SaysWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	r := start(t)
	stub := r.stub(8)
	_, unaryErr := stub.UnaryCall(within(t), &testgrpc.SimpleRequest{})
	_, downErr := stub.StreamingOutputCall(within(t), &testgrpc.StreamingOutputCallRequest{})
	_, bothErr := stub.FullDuplexCall(within(t))
	for _, err := range []error{unaryErr, downErr, bothErr} {
		require.True(t, notBegun(err), "%v", err)
		require.Equal(t, status.New(codes.Unavailable, "the agent is not connected").Proto(), status.Convert(err).Proto())
	}
	// Nor has it where nobody is there.
	r.url = "grpc://127.0.0.1:1"
	for _, url := range []string{"grpc://127.0.0.1:1", "ftp://a:1", "grpc://%", ""} {
		r.url = url
		_, err := r.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{})
		require.True(t, notBegun(err), "%s: %v", url, err)
		require.Equal(t, codes.Unavailable, status.Code(err))
	}
}

func TestServer_RefusesCallsForNobody(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, row := range []struct {
		name string
		md   metadata.MD
		want codes.Code
	}{
		{"a method that kas does not have", nil, codes.Unimplemented},
		{"an agent that is no number", metadata.Pairs(keyAgent, "seven", keyShape, "unary"), codes.InvalidArgument},
		{"a negative agent", metadata.Pairs(keyAgent, "-7", keyShape, "unary"), codes.InvalidArgument},
		{"two agents", metadata.Pairs(keyAgent, "7", keyAgent, "8", keyShape, "unary"), codes.Unimplemented},
		{"a strange shape", metadata.Pairs(keyAgent, "7", keyShape, "round"), codes.InvalidArgument},
		{"no request", metadata.Pairs(keyAgent, "7", keyShape, "one-request"), codes.InvalidArgument},
	} {
		rpc, err := r.client.Conn(r.url).NewStream(metadata.NewOutgoingContext(within(t), row.md), descOf(streaming), "/grpc.testing.TestService/UnaryCall")
		require.NoError(t, err)
		require.NoError(t, rpc.CloseSend())
		require.Equal(t, row.want, status.Code(rpc.RecvMsg(&testgrpc.Empty{})), row.name)
	}
	require.Empty(t, r.agent.heard)
}

func TestNewStream_HugeMetadataIsLeftOut(t *testing.T) {
	t.Parallel()
	r := start(t)
	much := metadata.MD{"kas-much": slices.Repeat([]string{strings.Repeat("x", 4000)}, 20)}
	ctx := metadata.NewOutgoingContext(within(t), much)
	_, err := r.stub(7).UnaryCall(ctx, &testgrpc.SimpleRequest{})
	require.NoError(t, err)
	require.Empty(t, r.agent.heard[0].Get("kas-much"))
	// Who does not heed that is cut off.
	rpc, err := r.client.Conn(r.url).NewStream(metadata.AppendToOutgoingContext(within(t), "kas-very-much", strings.Repeat("x", 2*maxHeaders)),
		descOf(streaming), "/grpc.testing.TestService/FullDuplexCall")
	if err == nil {
		err = rpc.RecvMsg(&testgrpc.Empty{})
	}
	require.Error(t, err)
	require.Len(t, r.agent.heard, 1)
}

func TestServer_RefusesAnotherSecretAndSaysSoOnce(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *ClientConfig) {
		c.Secret = []byte(strings.Repeat("x", 32))
		c.PingPeriod = 20 * time.Millisecond
	})
	for range 3 {
		_, err := r.stub(7).UnaryCall(within(t), &testgrpc.SimpleRequest{})
		require.True(t, notBegun(err))
		require.Equal(t, codes.Unavailable, status.Code(err), "it is not RoR whom kas does not know")
		require.Contains(t, err.Error(), "authentication_secret_file")
		_, err = r.stub(7).FullDuplexCall(within(t))
		require.True(t, notBegun(err))
	}
	require.Empty(t, r.agent.heard)
	testkit.Eventually(t, func() error {
		refused := r.logs.FilterMessageSnippet("A call to the private API was refused").Len()
		complained := r.logs.FilterMessageSnippet("Another kas refuses the calls of this one").Len()
		if refused != 1 || complained != 1 {
			return errors.New("not said once each")
		}
		return nil
	})
	require.Equal(t, 2, r.logs.Len())
	_, err := grpc_health_v1.NewHealthClient(r.client.Conn(r.url)).Check(within(t), &grpc_health_v1.HealthCheckRequest{})
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

func TestServer_AnswersItsOwnServices(t *testing.T) {
	t.Parallel()
	r := start(t)
	res, err := grpc_health_v1.NewHealthClient(r.client.Conn(r.url)).Check(within(t), &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, res.GetStatus())
}

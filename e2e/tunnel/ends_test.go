package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/testkit"
)

// talk is an RPC that is under way: both ends have said something.
func (r *rig) talk() testgrpc.TestService_FullDuplexCallClient {
	r.tb.Helper()
	stream, err := r.client.FullDuplexCall(r.tb.Context())
	require.NoError(r.tb, err)
	r.echo(stream)
	return stream
}

func (r *rig) echo(stream testgrpc.TestService_FullDuplexCallClient) {
	r.tb.Helper()
	require.NoError(r.tb, stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: payload(3)}))
	got, err := stream.Recv()
	require.NoError(r.tb, err)
	require.Len(r.tb, got.GetPayload().GetBody(), 3)
}

// handlers counts the RPCs that an agent's end is busy with: each puts why it ended.
func handlers() (s *service, ended chan error) {
	ended = make(chan error, 100)
	echo := &service{}
	return &service{duplex: func(stream testgrpc.TestService_FullDuplexCallServer) error {
		err := echo.FullDuplexCall(stream)
		ended <- err
		return err
	}}, ended
}

func TestTunnel_TheConnectionEndsInMidCall(t *testing.T) {
	s, ended := handlers()
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		one, two := r.talk(), r.talk()
		r.cut()
		for _, stream := range []testgrpc.TestService_FullDuplexCallClient{one, two} {
			_, err := stream.Recv()
			require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
			require.Error(t, <-ended, "its handler ends as well")
		}
		r.works() // the agent has connected again
		r.echo(r.talk())
	})
}

func TestTunnel_TheAgentLeavesInMidCall(t *testing.T) {
	s, ended := handlers()
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		stream := r.talk()
		r.leave()
		require.Error(t, <-ended)
		_, err := stream.Recv()
		require.Contains(t, []codes.Code{codes.Unavailable, codes.Canceled}, status.Code(err), "%v", err)
		r.isAway()
	})
}

// isAway waits until kas says that the agent is not connected. That it does a tenth of the
// time before it runs out, which may be too late where the machine is busy.
func (r *rig) isAway() {
	r.tb.Helper()
	timeout := 10 * time.Millisecond
	testkit.Eventually(r.tb, func() error {
		timeout *= 2
		ctx, cancel := context.WithTimeout(r.tb.Context(), timeout)
		defer cancel()
		_, err := r.client.EmptyCall(ctx, &testgrpc.Empty{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "agent 7 is not connected") {
			return fmt.Errorf("it says %w", errors.Join(errors.New("something else"), err))
		}
		return nil
	})
}

// What is under way may end in good order; nothing new begins.
func TestTunnel_KasDrainsInMidCall(t *testing.T) {
	s, ended := handlers()
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		stream := r.talk()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			r.drain()
		}()
		testkit.Eventually(t, func() error {
			if idle, _ := r.streams(); idle != 0 {
				return io.ErrNoProgress
			}
			return nil
		})
		r.echo(stream)
		select {
		case <-drained:
			t.Error("kas has not waited")
		default:
		}
		require.NoError(t, stream.CloseSend())
		_, err := stream.Recv()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, <-ended)
		<-drained
		require.Equal(t, codes.Unavailable, status.Code(<-r.ended))
	})
}

func TestTunnel_ARevokedTokenEndsEverything(t *testing.T) {
	s, ended := handlers()
	over(t, s, func(t *testing.T, r *rig) {
		t.Helper()
		stream := r.talk()
		r.ror.revoke()
		_, err := stream.Recv()
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		require.Error(t, <-ended)
		require.Equal(t, codes.Unauthenticated, status.Code(<-r.ended), "the agent is told")
		// A stream that was just being opened may live until tokens are checked again.
		testkit.Eventually(t, func() error {
			if idle, busy := r.streams(); idle+busy > 0 {
				return fmt.Errorf("%v idle, %v busy", idle, busy)
			}
			return nil
		})
		r.isAway()
	})
}

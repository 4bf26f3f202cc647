package tunnel

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// A handler that has all of its request is served by the goroutine that would receive.
func TestServer_UnaryHandlerHearsOfACancelHoweverItListens(t *testing.T) {
	for name, listen := range map[string]func(context.Context){
		"it waits for its context": func(ctx context.Context) { <-ctx.Done() },
		"it waits for one that it derived": func(ctx context.Context) {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			<-derived.Done()
		},
		"it looks now and then": func(ctx context.Context) {
			for ctx.Err() == nil {
				runtime.Gosched()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, &service{empty: func(ctx context.Context) error {
				listen(ctx)
				return status.FromContextError(ctx.Err()).Err()
			}}, nil)
			s := r.stream(t)
			for n := uint64(1); n <= 2; n++ { // who received the cancel goes on receiving
				s.send(t, whole(t, n, emptyCall, &testpb.Empty{}), &agentrpc.TunnelRequest{Rpc: n, Cancel: true})
				require.Equal(t, codes.Canceled, status.Code(tunnelwire.ToError(s.answer(t, n).trailers())))
			}
			require.Empty(t, r.failures)
		})
	}
}

func TestServer_UnaryHandlerThatEndsItsGoroutineLeavesTheStream(t *testing.T) {
	r := start(t, &service{empty: func(context.Context) error {
		runtime.Goexit()
		return nil
	}}, nil)
	s := r.stream(t)
	for n := uint64(1); n <= 2; n++ {
		s.send(t, whole(t, n, emptyCall, &testpb.Empty{}))
		require.Equal(t, codes.Internal, status.Code(tunnelwire.ToError(s.answer(t, n).trailers())))
	}
	require.Empty(t, r.failures)
}

func TestServer_UnaryHandlersContextEndsWithIt(t *testing.T) {
	leaked := make(chan context.Context, 1)
	r := start(t, &service{empty: func(ctx context.Context) error {
		leaked <- ctx
		return nil
	}}, nil)
	s := r.stream(t)
	for n := uint64(1); n <= 2; n++ {
		s.send(t, whole(t, n, emptyCall, &testpb.Empty{}))
		require.Equal(t, codes.OK, status.Code(tunnelwire.ToError(s.answer(t, n).trailers())))
		ctx := <-leaked
		<-ctx.Done()
		require.ErrorIs(t, ctx.Err(), context.Canceled)
	}
	require.Empty(t, r.failures)
}

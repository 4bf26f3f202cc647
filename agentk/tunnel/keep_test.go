package tunnel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
)

var errNotYet = errors.New("not yet")

func eventually(tb testing.TB, so func() bool) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		if so() {
			return nil
		}
		return errNotYet
	})
}

func wants(n uint32) *agentrpc.TunnelRequest {
	return &agentrpc.TunnelRequest{IdleStreams: proto.Uint32(n)}
}

func TestServer_OpensAsManyAsKasWants(t *testing.T) {
	hold := make(chan struct{})
	wait := func(ctx context.Context) error { // one that heeds its context, so that kas is heard meanwhile
		select {
		case <-hold:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r := start(t, &service{empty: wait}, func(_ *rig, c *Config) { c.MaxIdle, c.MaxStreams = 5, 6 })
	first := r.stream(t)
	r.await(t, 1, 0)
	first.send(t, wants(3))
	r.await(t, 3, 0)
	first.send(t, wants(1<<32-1))
	r.await(t, 5, 0) // MaxIdle
	call := whole(t, 1, emptyCall, &testpb.Empty{})
	second := r.stream(t)
	first.send(t, call)
	r.await(t, 5, 1)
	second.send(t, call)
	r.await(t, 4, 2) // MaxStreams
	// With none at all kas could not ask for more.
	second.send(t, wants(0))
	eventually(t, func() bool {
		r.server.pool.mu.Lock()
		defer r.server.pool.mu.Unlock()
		return r.server.pool.wanted == 1
	})
	close(hold)
	first.answer(t, 1)
	second.answer(t, 1)
	r.await(t, 6, 0)
	// It is for kas to end those that it no longer wants.
	r.clock.Step(young)
	streams := []*kasStream{first, second, r.stream(t), r.stream(t), r.stream(t), r.stream(t)}
	for _, s := range streams[:5] {
		s.end <- nil
	}
	r.await(t, 1, 0)
	streams[5].end <- nil
	r.stream(t)
	r.await(t, 1, 0)
	require.Empty(t, r.failures)
}

func TestServer_OpensStreamsAgain(t *testing.T) {
	for _, row := range []struct {
		name    string
		end     error
		level   zapcore.Level
		message string
	}{
		{"kas went away", status.Error(codes.Unavailable, "gone"), zapcore.InfoLevel, "Tunnel stream ended, opening it again"},
		{"the token is revoked", status.Error(codes.Unauthenticated, "who?"), zapcore.WarnLevel, "Tunnel stream refused by kas"},
		{"it has too many", status.Error(codes.ResourceExhausted, "too many"), zapcore.WarnLevel, "Tunnel stream refused by kas"},
		{"kas is too old", status.Error(codes.Unimplemented, "what?"), zapcore.InfoLevel, "kas has no tunnel, asking again now and then"},
		{"kas ends a stream as soon as it is there", nil, zapcore.InfoLevel, "Tunnel stream ended, opening it again"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := start(t, &service{}, nil)
			for range 3 {
				r.stream(t).end <- row.end
				err := r.failure(t)
				require.Error(t, err)
				if row.end != nil {
					require.Equal(t, status.Code(row.end), status.Code(err))
				}
			}
			last := r.stream(t)
			last.send(t, whole(t, 1, unaryCall, &testpb.SimpleRequest{}))
			last.answer(t, 1)
			said := r.logs.FilterMessage(row.message).All()
			require.Len(t, said, 3)
			require.Equal(t, row.level, said[0].Level)
			if status.Code(row.end) == codes.Unimplemented {
				require.Equal(t, zapcore.DebugLevel, said[2].Level, "once is enough")
			}
		})
	}
}

func TestServer_FailureOfOneLeavesTheOthers(t *testing.T) {
	r := start(t, &service{}, nil)
	first := r.stream(t)
	first.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}, IdleStreams: proto.Uint32(2)})
	r.await(t, 2, 1)
	second, third := r.stream(t), r.stream(t)
	second.end <- status.Error(codes.Unavailable, "gone")
	require.ErrorContains(t, r.failure(t), "gone")
	r.await(t, 1, 1) // the kas that wanted two may be gone
	third.send(t, &agentrpc.TunnelRequest{Rpc: 1, Start: &agentrpc.TunnelStart{Method: fullDuplex}})
	r.await(t, 1, 2) // one more was opened, for the next
	for _, s := range []*kasStream{third, first} {
		s.send(t, &agentrpc.TunnelRequest{Rpc: 1, HalfClose: true})
		s.answer(t, 1)
	}
	// A stream that is ended in the middle of an RPC is a failure, however it is ended.
	first.send(t, &agentrpc.TunnelRequest{Rpc: 2, Start: &agentrpc.TunnelStart{Method: fullDuplex}})
	eventually(t, func() bool { return r.counted(fullDuplex, "OK") == 2 })
	r.clock.Step(young)
	first.send(t, &agentrpc.TunnelRequest{Rpc: 2, Messages: parts(t, input(1))})
	_, err := first.Recv()
	require.NoError(t, err)
	first.end <- nil
	require.ErrorIs(t, r.failure(t), errBusy)
	r.await(t, 2, 0)
	require.Equal(t, 1, r.logs.FilterMessage("Tunnel stream ended, opening it again").Len(), "that of the second")
}

// away is a kas that cannot be reached once gone is set.
type away struct {
	agentrpc.ReverseTunnelClient
	gone              atomic.Bool
	tries, open, most atomic.Int32
}

func (a *away) Connect(ctx context.Context, opts ...grpc.CallOption) (grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest], error) {
	if !a.gone.Load() {
		return a.ReverseTunnelClient.Connect(ctx, opts...)
	}
	defer a.open.Add(-1)
	a.most.Store(max(a.most.Load(), a.open.Add(1)))
	a.tries.Add(1)
	return nil, status.Error(codes.Unavailable, "connection refused")
}

func TestServer_KasAwayIsNoStorm(t *testing.T) {
	const streams = 50
	client := &away{}
	r := start(t, &service{}, func(r *rig, _ *Config) {
		r.wrap = func(c agentrpc.ReverseTunnelClient) agentrpc.ReverseTunnelClient {
			client.ReverseTunnelClient = c
			return client
		}
	})
	first := r.stream(t)
	first.send(t, wants(streams))
	r.await(t, streams, 0)
	client.gone.Store(true)
	lost := status.Error(codes.Unavailable, "gone")
	first.end <- lost
	for range streams - 1 {
		r.stream(t).end <- lost
	}
	eventually(t, func() bool { return client.tries.Load() > 5 })
	require.EqualValues(t, 1, client.most.Load(), "several were opened at once")
	tries := client.tries.Load()
	waits := r.logs.FilterMessage("Tunnel stream ended, opening it again").Len()
	require.LessOrEqual(t, int(tries), waits, "each try has a wait before it")
	client.gone.Store(false)
	r.stream(t)
	r.await(t, 1, 0)
}

func TestCauseOf_TellsWhatToWaitFor(t *testing.T) {
	require.Equal(t, lost, causeOf(nil))
	require.Equal(t, lost, causeOf(errYoung))
	require.Equal(t, refused, causeOf(status.Error(codes.PermissionDenied, "")))
	require.Equal(t, old, causeOf(status.Error(codes.Unimplemented, "")))
}

func TestConfig_HasDefaults(t *testing.T) {
	c := Config{}
	c.setDefaults()
	require.NotNil(t, c.Clock)
	require.Equal(t, 1000, c.MaxIdle)
	require.Greater(t, c.Old.Initial, c.Refused.Max, "an old kas is asked rarely")
	require.NotEqual(t, retry.Policy{}, c.Lost)
	require.GreaterOrEqual(t, c.Old.Initial, time.Minute)
	_, err := NewMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
}

func TestPool_OpensNothingBeforeAFailureWasWaitedFor(t *testing.T) {
	p := newPool(10, 10, newMetrics())
	p.want(2)
	require.Equal(t, 2, p.take())
	require.Zero(t, p.take(), "they are being opened")
	p.move(opening, idle)
	p.move(opening, idle)
	p.move(idle, busy)
	require.Equal(t, 1, p.take())
	p.move(opening, idle)
	p.end(busy, errNotYet)
	require.Empty(t, p.failed, "kas gave it up for its RPC: others are idle")
	p.end(idle, errNotYet)
	p.end(idle, errNotYet)
	require.Zero(t, p.take())
	require.Len(t, p.failed, 1)
	p.forgive()
	require.Equal(t, 1, p.take())
	p.move(opening, idle)
	p.move(idle, busy)
	p.end(busy, errNotYet)
	require.Len(t, p.failed, 1, "nothing is left")
}

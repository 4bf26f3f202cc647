package redis

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/testkit"
)

// ask makes an RPC with agent 7 that has much time.
func (k *kas) ask(tb testing.TB) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testkit.Patience)
	defer cancel()
	_, err := k.client.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: []byte("a")}})
	return err
}

// isLeft waits until kas knows that agent 7 is gone: else an RPC may begin on a stream that is
// ending.
func (k *kas) isLeft(tb testing.TB) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		if len(k.tunnel.Services(7)) > 0 {
			return errors.New("its kas has not noticed")
		}
		return nil
	})
}

func TestRouting_FollowsTheAgentFromKasToKas(t *testing.T) {
	t.Parallel()
	all := severalKas(t, start(t), 3)
	var g errgroup.Group
	askAll := func() {
		for _, k := range all {
			g.Go(func() error { return k.ask(t) })
		}
	}
	askAll() // before the agent is there
	for _, at := range []*kas{all[0], all[1], all[2], all[0]} {
		leave := agentk(t, at)
		require.NoError(t, g.Wait())
		askAll()
		require.NoError(t, g.Wait())
		leave()
		at.isLeft(t)
		askAll() // while it is on its way to the next
	}
	agentk(t, all[1])
	require.NoError(t, g.Wait())
}

func TestRouting_KasOfTheAgentIsKilled(t *testing.T) {
	t.Parallel()
	all := severalKas(t, start(t), 3)
	agentk(t, all[1])
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	call, err := all[0].client.FullDuplexCall(ctx)
	require.NoError(t, err)
	require.NoError(t, call.Send(&testgrpc.StreamingOutputCallRequest{}))
	_, err = call.Recv()
	require.NoError(t, err)

	all[1].kill() // what it said stays, since it is still alive for Redis
	began := time.Now()
	_, err = call.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	require.Less(t, time.Since(began), testkit.Patience/2, "it does not wait for its deadline")
	var g errgroup.Group
	for range 3 {
		g.Go(func() error { return all[0].ask(t) }) // it is sent to the one that is gone, and goes on looking
	}
	agentk(t, all[2])
	require.NoError(t, g.Wait())
}

func TestRouting_RedisIsAway(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := severalKas(t, redis, 2)
	agentk(t, all[1])
	require.NoError(t, all[0].ask(t))
	require.NoError(t, redis.Process.Stop())
	for _, k := range all {
		k.up(t, 0)
		require.NoError(t, k.ask(t), "what was known is still used")
	}
	// One that comes while Redis is away is found here at once, and there when Redis is back.
	leave := agentk(t, all[0])
	require.NoError(t, all[0].ask(t))
	leave()
	all[0].isLeft(t)
	require.NoError(t, redis.Process.Start(t.Context()))
	for _, k := range all {
		k.up(t, 1)
		require.NoError(t, k.ask(t))
	}
}

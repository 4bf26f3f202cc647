package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
)

// hold runs a lease. end gives it up.
func hold(t *testing.T, p *replica, name string) (l *replicas.Lease, end func()) {
	t.Helper()
	l = p.Lease(name)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	end = func() { cancel(); running.Wait() }
	t.Cleanup(end)
	return l, end
}

// becomes waits for a state, by what the lease says of changes alone.
func becomes(t *testing.T, l *replicas.Lease, want replicas.State) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	for {
		state, changed := l.State()
		if state == want {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the lease is %s, not %s", state, want)
		}
	}
}

func TestLease_IsHeldByOneAndGivenUp(t *testing.T) {
	t.Parallel()
	redis, urls := start(t), []string{"grpc://a:1", "grpc://b:1"}
	var all []*replica
	for _, url := range urls {
		cfg := config(redis.Address, url)
		cfg.LeaseTTL = 10 * time.Minute // nobody here has the time to wait for it to expire
		all = append(all, run(t, cfg))
	}
	for _, p := range all {
		p.seesAllOf(t, urls)
	}
	a, endA := hold(t, all[0], "repo")
	becomes(t, a, replicas.Mine)
	b, _ := hold(t, all[1], "repo")
	becomes(t, b, replicas.Other)
	same, _ := hold(t, all[0], "repo")
	becomes(t, same, replicas.Other) // also in one process
	unrelated, _ := hold(t, all[1], "another")
	becomes(t, unrelated, replicas.Mine)

	endA()
	state, _ := a.State()
	require.Equal(t, replicas.Unknown, state)
	testkit.Eventually(t, func() error {
		x, _ := b.State()
		y, _ := same.State()
		if (x == replicas.Mine) == (y == replicas.Mine) {
			return fmt.Errorf("they are %s and %s", x, y)
		}
		return nil
	})
}

func TestLease_IsRenewedAndFreeAfterTheEndOfItsHolder(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1")
	relay := relayTo(t, redis)
	dying := run(t, config(relay.address, "grpc://b:1"))
	theirs, _ := hold(t, dying, "repo")
	becomes(t, theirs, replicas.Mine)
	mine, _ := hold(t, all[0], "repo")
	becomes(t, mine, replicas.Other)
	_, changed := theirs.State()
	select {
	case <-changed:
		t.Fatal("it was lost while it was renewed")
	case <-time.After(leaseTTL + time.Second): // longer than a lease lasts
	}
	restore := relay.BlackHole()
	defer restore()
	var seen time.Time // as its own
	testkit.Eventually(t, func() error {
		now := time.Now()
		if state, _ := theirs.State(); state == replicas.Mine {
			seen = now
			return errors.New("it is still its own")
		}
		return nil
	})
	<-changed
	state, _ := theirs.State()
	require.Equal(t, replicas.Unknown, state)
	// A tenth of the time is between the end here and the beginning there; who looks later
	// than that does not see the order.
	if other, _ := mine.State(); time.Since(seen) < leaseTTL/10 {
		require.Equal(t, replicas.Other, other, "it ends here before it begins there")
	}
	becomes(t, mine, replicas.Mine)
}

func TestLeases_AreRenewedTogether(t *testing.T) {
	t.Parallel()
	all := several(t, start(t), "grpc://a:1", "grpc://b:1")
	const n = 1000
	var held []*replicas.Lease
	for i := range n {
		l, _ := hold(t, all[0], fmt.Sprint("repo-", i))
		held = append(held, l)
	}
	for _, l := range held {
		becomes(t, l, replicas.Mine)
	}
	before := asked(t, all[0], "lease")
	began := time.Now()
	last, _ := hold(t, all[1], "repo-999")
	becomes(t, last, replicas.Other)
	testkit.Eventually(t, func() error {
		if time.Since(began) < leaseTTL {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	for _, l := range held {
		state, _ := l.State()
		require.Equal(t, replicas.Mine, state)
	}
	require.Less(t, asked(t, all[0], "lease")-before, float64(n)/5)
}

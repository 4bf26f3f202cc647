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

// hold takes part in a lease. end gives it up.
func hold(t *testing.T, p *replica, name string) (l *replicas.Lease, end func()) {
	t.Helper()
	l = p.Lease(name)
	l.Begin()
	end = sync.OnceFunc(l.End)
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
	all := several(t, start(t), "grpc://a:1", "grpc://b:1") // nobody waits for a lease to expire
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

// whileKept runs a test with leases of longer and longer TTLs, until it is true: a machine
// that does nothing for half the TTL loses them, rightly.
func whileKept(t *testing.T, test func(t *testing.T, ttl time.Duration) bool) {
	t.Helper()
	for _, ttl := range []time.Duration{3 * time.Second, 10 * time.Second, 30 * time.Second} {
		if test(t, ttl) {
			return
		}
		t.Logf("a lease of %s was lost while it was renewed", ttl)
	}
	t.Fatal("leases are lost while they are renewed")
}

// leasing is config with leases that tests can wait for.
func leasing(ttl time.Duration) func(address, url string) replicas.Config {
	return func(address, url string) replicas.Config {
		cfg := config(address, url)
		cfg.LeaseTTL, cfg.Redis.WriteTimeout = ttl, ttl/3
		return cfg
	}
}

func TestLease_IsRenewedAndFreeAfterTheEndOfItsHolder(t *testing.T) {
	t.Parallel()
	whileKept(t, isRenewedAndFree)
}

func isRenewedAndFree(t *testing.T, ttl time.Duration) bool {
	t.Helper()
	redis := start(t)
	all := severalOf(t, leasing(ttl), redis, "grpc://a:1")
	relay := relayTo(t, redis)
	dying := run(t, leasing(ttl)(relay.address, "grpc://b:1"))
	theirs, _ := hold(t, dying, "repo")
	becomes(t, theirs, replicas.Mine)
	mine, _ := hold(t, all[0], "repo")
	becomes(t, mine, replicas.Other)
	_, changed := theirs.State()
	select {
	case <-changed:
		return false
	case <-time.After(ttl + time.Second): // longer than a lease lasts
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
	if other, _ := mine.State(); time.Since(seen) < ttl/10 {
		require.NotEqual(t, replicas.Mine, other, "it ends here before it begins there")
	}
	becomes(t, mine, replicas.Mine)
	return true
}

func TestLeases_AreRenewedTogether(t *testing.T) {
	t.Parallel()
	whileKept(t, areRenewedTogether)
}

func areRenewedTogether(t *testing.T, ttl time.Duration) bool {
	t.Helper()
	all := severalOf(t, leasing(ttl), start(t), "grpc://a:1", "grpc://b:1")
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
	last, _ := hold(t, all[1], "repo-999")
	began := time.Now()
	for time.Since(began) < ttl {
		if state, changed := last.State(); state != replicas.Mine {
			select {
			case <-changed:
			case <-time.After(ttl - time.Since(began)):
			}
			continue
		}
		return false
	}
	for _, l := range held {
		if state, _ := l.State(); state != replicas.Mine {
			return false
		}
	}
	require.Less(t, asked(t, all[0], "lease")-before, float64(n)/5)
	return true
}

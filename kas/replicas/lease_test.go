package replicas

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	testingclock "k8s.io/utils/clock/testing"
)

// beginLease has one tried for until the test ends. Redis's answers are the test's own.
func beginLease(t *testing.T) (*Lease, *testingclock.FakeClock, func()) {
	t.Helper()
	r, c := without(t)
	l := r.Lease("repo")
	l.Begin()
	end := sync.OnceFunc(l.End)
	t.Cleanup(end)
	due, _ := r.leases.next()
	require.Equal(t, []*Lease{l}, due)
	return l, c, end
}

func is(t *testing.T, l *Lease, want State) {
	t.Helper()
	got, _ := l.State()
	require.Equal(t, want, got, "%s, not %s", got, want)
}

func TestLease_IsNotMineForAsLongAsRedisKeepsIt(t *testing.T) {
	l, c, _ := beginLease(t)
	sent := c.Now()
	c.Step(2 * time.Second) // the answer takes long
	l.r.leases.learn(l, sent, 0)
	is(t, l, Mine)
	_, changed := l.State()
	c.SetTime(sent.Add(13499 * time.Millisecond))
	is(t, l, Mine)
	c.SetTime(sent.Add(13500 * time.Millisecond)) // Redis gives it away at 15 s and later
	is(t, l, Unknown)
	<-changed
	l.r.leases.learn(l, sent, 0) // an answer that is too old
	is(t, l, Unknown)
}

func TestLease_IsRenewedInTimeAndWithOthers(t *testing.T) {
	l, c, _ := beginLease(t)
	l.r.leases.learn(l, c.Now(), 0)
	due, wait := l.r.leases.next()
	require.Empty(t, due)
	require.Equal(t, 5*time.Second, wait)
	c.Step(4 * time.Second) // early, for company
	due, _ = l.r.leases.next()
	require.Len(t, due, 1)
}

func TestLease_OfAnotherIsTriedWhenItMayBeFree(t *testing.T) {
	l, c, _ := beginLease(t)
	l.r.leases.learn(l, c.Now(), 10*time.Second)
	is(t, l, Other)
	c.Step(9 * time.Second)
	due, wait := l.r.leases.next()
	require.Empty(t, due)
	require.GreaterOrEqual(t, wait, time.Second)
	l.r.heardControl("0123456789abcdef" + "l" + "another\nrepo")
	due, _ = l.r.leases.next()
	require.Len(t, due, 1, "it was given up")
}

func TestLease_GivenUpWhileItIsRenewedIsGivenBack(t *testing.T) {
	l, c, end := beginLease(t)
	end()
	require.Empty(t, l.r.leases.takeReleased(true), "it never was its own")
	l.r.leases.learn(l, c.Now(), 0)
	is(t, l, Unknown)
	require.Equal(t, []*Lease{l}, l.r.leases.takeReleased(false))
	require.Empty(t, l.r.leases.byName)
}

package replicas

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiter_HasABucketOfItsOwnWithoutRedis(t *testing.T) {
	r, c := without(t)
	l := r.Limiter("tokens", 2, 3)
	allow := func(key string, wantOK bool, wantWait time.Duration) {
		t.Helper()
		ok, wait := l.Allow(t.Context(), key)
		require.Equal(t, wantOK, ok)
		require.Equal(t, wantWait, wait)
	}
	for range 3 {
		allow("k", true, 0)
	}
	allow("k", false, 500*time.Millisecond)
	allow("another", true, 0)
	c.Step(200 * time.Millisecond)
	allow("k", false, 300*time.Millisecond)
	c.Step(300 * time.Millisecond)
	allow("k", true, 0)
	allow("k", false, 500*time.Millisecond)
	c.Step(time.Hour)
	for range 3 {
		allow("k", true, 0)
	}
	allow("k", false, 500*time.Millisecond)
}

func TestLimiter_KeepsABoundedNumberOfBuckets(t *testing.T) {
	r, c := without(t)
	l := r.Limiter("tokens", 1, 1)
	for i := range maxBuckets {
		l.Allow(t.Context(), strconv.Itoa(i))
	}
	require.Len(t, l.own, maxBuckets)
	l.Allow(t.Context(), "one more")
	require.Len(t, l.own, maxBuckets*7/8+1, "some go")
	c.Step(2 * time.Second)
	for i := range maxBuckets/8 + 2 {
		l.Allow(t.Context(), strconv.Itoa(-i))
	}
	require.LessOrEqual(t, len(l.own), maxBuckets/8+2, "those that are full again go")
}

package proxy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestLocalLimiter_EachHasABucket(t *testing.T) {
	now := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	l := NewLocalLimiter(2, 3, now)
	allow := func(key string) (bool, time.Duration) { return l.Allow(t.Context(), key) }
	for range 3 {
		ok, _ := allow("a")
		require.True(t, ok)
	}
	ok, after := allow("a")
	require.False(t, ok)
	require.Equal(t, 500*time.Millisecond, after)
	ok, after = allow("a") // a refusal costs nothing
	require.False(t, ok)
	require.Equal(t, 500*time.Millisecond, after)
	ok, _ = allow("b")
	require.True(t, ok)
	now.Step(500 * time.Millisecond)
	ok, _ = allow("a")
	require.True(t, ok)
}

func TestLocalLimiter_IsBounded(t *testing.T) {
	l := NewLocalLimiter(1, 1, clocktesting.NewFakeClock(time.Unix(1_000_000, 0)))
	l.max = 2
	for _, key := range []string{"a", "b", "a", "c"} {
		l.Allow(t.Context(), key)
	}
	require.Len(t, l.byKey, 2)
	require.Equal(t, 2, l.recent.Len())
	require.Contains(t, l.byKey, "a")
}

func TestLocalLimiter_AnEmptyBucketLetsNobodyThrough(t *testing.T) {
	ok, after := NewLocalLimiter(1, 0, clocktesting.NewFakeClock(time.Unix(1_000_000, 0))).Allow(t.Context(), "a")
	require.False(t, ok)
	require.Positive(t, after)
}

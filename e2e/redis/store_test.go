package redis

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
)

func TestStore_IsReadByAllUntilItExpires(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	put := func(fields map[string][]byte, ttl time.Duration) {
		t.Helper()
		require.NoError(t, all[0].Put(t.Context(), "status:1", fields, ttl))
	}
	is := func(want map[string][]byte) {
		t.Helper()
		got, err := all[1].Get(t.Context(), "status:1")
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	is(map[string][]byte{})
	put(map[string][]byte{"p": {0, 1, 255}, "q": {}}, time.Minute)
	put(map[string][]byte{"r": []byte("r")}, time.Minute)
	is(map[string][]byte{"p": {0, 1, 255}, "q": {}, "r": []byte("r")})
	require.NoError(t, all[1].Remove(t.Context(), "status:1", "q", "r", "no such field"))
	is(map[string][]byte{"p": {0, 1, 255}})
	require.NoError(t, all[1].Remove(t.Context(), "status:1"))
	is(map[string][]byte{})
	put(map[string][]byte{"p": []byte("p")}, 10*time.Millisecond)
	testkit.Eventually(t, func() error {
		if got, err := all[1].Get(t.Context(), "status:1"); err != nil || len(got) > 0 {
			return fmt.Errorf("%v, %w", got, err)
		}
		return nil
	})
	require.ErrorIs(t, all[0].Put(t.Context(), "status:1", map[string][]byte{"p": make([]byte, 17<<20)}, time.Minute), replicas.ErrTooLarge)
	large := map[string][]byte{}
	for i := range 5000 {
		large[fmt.Sprint(i)] = make([]byte, 100)
	}
	put(large, time.Minute)
	is(large)
}

func TestLimiter_IsSharedAndFillsAgain(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	const perSecond, burst = 0.5, 10
	limiters := []*replicas.Limiter{all[0].Limiter("tokens", perSecond, burst), all[1].Limiter("tokens", perSecond, burst)}
	began := time.Now()
	allowed := func(key string) (n int, last time.Duration) {
		for i := range 30 {
			ok, wait := limiters[i%2].Allow(t.Context(), key)
			if ok {
				n++
			} else {
				last = wait
			}
		}
		return n, last
	}
	// What came in meanwhile, and what each allowed by itself since Redis took too long.
	more := func() int {
		n := perSecond * time.Since(began).Seconds()
		for _, p := range all {
			n += asked(t, p, "limit") - answered(t, p, "limit", "ok")
		}
		return int(n)
	}
	n, wait := allowed("one")
	require.GreaterOrEqual(t, n, 8)
	require.LessOrEqual(t, n, 12+more())
	require.Positive(t, wait)
	require.LessOrEqual(t, wait, 2*time.Second)
	n, _ = allowed("two")
	require.GreaterOrEqual(t, n, 8)
	require.LessOrEqual(t, n, 12+more())
	testkit.Eventually(t, func() error { // it fills again
		if ok, wait := limiters[1].Allow(t.Context(), "one"); !ok {
			return fmt.Errorf("still %s", wait)
		}
		return nil
	})
	ok, _ := all[0].Limiter("none", 0, 0).Allow(t.Context(), "one")
	require.True(t, ok, "there is no limit")

	c := reach(t, redis)
	testkit.Eventually(t, func() error {
		limiters[0].Allow(t.Context(), "one") // those that are full again expire
		limiters[0].Allow(t.Context(), "two")
		keys, err := c.Do(t.Context(), c.B().Keys().Pattern("*limit*").Build()).AsStrSlice()
		require.NoError(t, err)
		for _, key := range keys {
			require.NotContains(t, key, "one")
			ttl, err := c.Do(t.Context(), c.B().Pttl().Key(key).Build()).AsInt64()
			require.NoError(t, err)
			require.NotEqual(t, int64(-1), ttl, "it never expires")
			require.LessOrEqual(t, ttl, int64(burst/perSecond*1000)+1)
		}
		if len(keys) != 2 {
			return fmt.Errorf("the keys are %v", keys)
		}
		return nil
	})
}

func TestLimiter_DoesNotAskWhereItWasRefused(t *testing.T) {
	t.Parallel()
	p := several(t, start(t), "grpc://a:1")[0]
	l, tries, key := p.Limiter("tokens", 0.001, 1), 0, ""
	testkit.Eventually(t, func() error {
		tries++
		key = fmt.Sprint("flood ", tries)
		before := answered(t, p, "limit", "ok")
		ok, _ := l.Allow(t.Context(), key)
		require.True(t, ok)
		again, _ := l.Allow(t.Context(), key)
		if answered(t, p, "limit", "ok") < before+2 {
			return errors.New("Redis takes too long") // so it was allowed without it
		}
		require.False(t, again)
		return nil
	})
	before := asked(t, p, "limit")
	for range 1000 {
		ok, wait := l.Allow(t.Context(), key)
		require.False(t, ok)
		require.InDelta(t, 950, wait.Seconds(), 51)
	}
	require.InDelta(t, before, asked(t, p, "limit"), 0)
}

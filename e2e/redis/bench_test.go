package redis

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
)

// BenchmarkRefresh is what it costs Redis and the time it takes to keep up what a replica has
// said: it must not depend on the number of agents.
func BenchmarkRefresh(b *testing.B) {
	for _, agents := range []int64{10, 10_000} {
		b.Run(fmt.Sprint(agents, " agents"), func(b *testing.B) {
			redis := start(b)
			cfg := config(redis.Address, "grpc://a:1")
			cfg.AliveTTL = 10 * time.Millisecond
			p := run(b, cfg)
			for id := range agents {
				p.Here(id, make([]byte, 100))
			}
			c := reach(b, redis)
			testkit.Eventually(b, func() error {
				if n, err := c.Do(b.Context(), c.B().Hlen().Key("gitlab-kas:agents:grpc://a:1").Build()).AsInt64(); err != nil || n != agents+1 {
					return fmt.Errorf("%d fields, %w", n, err)
				}
				return nil
			})
			require.NoError(b, c.Do(b.Context(), c.B().ConfigResetstat().Build()).Error())
			testkit.Eventually(b, func() error {
				if calls, _ := evals(b, c); calls < 50 {
					return fmt.Errorf("%v calls", calls)
				}
				return nil
			})
			_, usec := evals(b, c)
			b.ReportMetric(usec, "redis-µs/refresh")
			b.ReportMetric(0, "ns/op")
		})
	}
}

var evalStats = regexp.MustCompile(`cmdstat_evalsha:calls=(\d+),usec=\d+,usec_per_call=([\d.]+)`)

func evals(b *testing.B, c rueidis.Client) (calls, usec float64) {
	b.Helper()
	info, err := c.Do(b.Context(), c.B().Info().Section("commandstats").Build()).ToString()
	require.NoError(b, err)
	found := evalStats.FindStringSubmatch(info)
	if found == nil {
		return 0, 0
	}
	calls, _ = strconv.ParseFloat(found[1], 64)
	usec, _ = strconv.ParseFloat(found[2], 64)
	return calls, usec
}

// BenchmarkAnnounce is a replica with 10,000 agents whose Redis has forgotten everything.
func BenchmarkAnnounce(b *testing.B) {
	redis := start(b)
	cfg := config(redis.Address, "grpc://a:1")
	cfg.AliveTTL = 10 * time.Millisecond
	p := run(b, cfg)
	for id := range int64(10_000) {
		p.Here(id, make([]byte, 100))
	}
	c := reach(b, redis)
	for b.Loop() {
		require.NoError(b, c.Do(b.Context(), c.B().Flushall().Build()).Error())
		testkit.Eventually(b, func() error {
			if n, err := c.Do(b.Context(), c.B().Hlen().Key("gitlab-kas:agents:grpc://a:1").Build()).AsInt64(); err != nil || n != 10_001 {
				return fmt.Errorf("%d fields, %w", n, err)
			}
			return nil
		})
	}
}

func BenchmarkWhere_Known(b *testing.B) {
	redis := start(b)
	p := run(b, config(redis.Address, "grpc://a:1"))
	run(b, config(redis.Address, "grpc://b:1")).Here(7, []byte("seven"))
	p.finds(b, 7, "grpc://b:1")
	for b.Loop() {
		if _, _, err := p.Where(b.Context(), 7); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLimiter is one round trip each.
func BenchmarkLimiter(b *testing.B) {
	p := run(b, config(start(b).Address, "grpc://a:1"))
	p.up(b, 1)
	l := p.Limiter("tokens", 1e6, 1e6)
	for b.Loop() {
		l.Allow(b.Context(), "key")
	}
}

package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
	"github.com/kas-agentk/kas/sandbox"
)

// soon is far more than anything here takes, and less than anybody would wait who waits for a
// Redis that is silent.
const soon = 30 * time.Second

// away checks that everything returns at once, and what it returns, without Redis.
func away(t *testing.T, p *replica) {
	t.Helper()
	began := time.Now()
	for range 20 {
		_, changed, err := p.Where(t.Context(), 1234)
		require.ErrorIs(t, err, replicas.ErrAway)
		require.NotNil(t, changed)
		p.Tell("topic", []byte("lost"))
		p.Here(99, []byte("here all the same"))
		_, err = p.Entries(t.Context(), nil)
		require.ErrorIs(t, err, replicas.ErrAway)
		require.ErrorIs(t, p.Put(t.Context(), "k", map[string][]byte{"f": nil}, time.Minute), replicas.ErrAway)
		require.ErrorIs(t, p.Remove(t.Context(), "k"), replicas.ErrAway)
		_, err = p.Get(t.Context(), "k")
		require.ErrorIs(t, err, replicas.ErrAway)
		p.Limiter("away", 1, 1).Allow(t.Context(), "k")
	}
	require.Less(t, time.Since(began), soon, "nothing of this waits for a time-out")
}

func TestRedis_IsStoppedAndComesBackEmpty(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	var e ear
	all[0].Hear("topic", e.hear)
	lease, _ := hold(t, all[0], "repo")
	becomes(t, lease, replicas.Mine)
	all[1].Here(7, []byte("seven"))
	all[0].finds(t, 7, "grpc://b:1")
	settled(t, all[0], all[1])
	all[0].finds(t, 7, "grpc://b:1")
	limiter := all[0].Limiter("own", 0.001, 2)
	e.has(t, "-")

	redis.Process.Kill()
	for _, p := range all {
		p.up(t, 0)
		away(t, p)
	}
	urls, changed, err := all[0].Where(t.Context(), 7)
	require.NoError(t, err, "what was known is still told")
	require.Equal(t, []string{"grpc://b:1"}, urls)
	state, _ := lease.State()
	require.Equal(t, replicas.Unknown, state)
	for i, want := range []bool{true, true, false} {
		ok, _ := limiter.Allow(t.Context(), "k")
		require.Equal(t, want, ok, "%d: each has a bucket of its own", i)
	}
	all[1].Here(7, nil)
	all[1].Here(8, []byte("eight"))

	require.NoError(t, redis.Process.Start(t.Context()))
	<-changed
	for _, p := range all {
		p.up(t, 1)
		p.seesAllOf(t, []string{"grpc://a:1", "grpc://b:1"})
	}
	all[0].finds(t, 8, "grpc://b:1")
	all[0].finds(t, 7)
	becomes(t, lease, replicas.Mine)
	e.has(t, "- -")
	all[1].Tell("topic", []byte("again"))
	e.has(t, "- - again")
	require.Equal(t, 1, logged(all[0], "Redis is away"))
	require.Equal(t, 1, logged(all[0], "Redis is back"))
}

func logged(p *replica, text string) (n int) {
	for _, entry := range p.log.All() {
		if strings.Contains(entry.Message, text) {
			n++
		}
	}
	return n
}

func TestRedis_ThatHangsIsAway(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := severalOf(t, leasing(6*time.Second), redis, "grpc://a:1", "grpc://b:1")
	lease, _ := hold(t, all[0], "repo")
	becomes(t, lease, replicas.Mine)
	require.NoError(t, redis.Pause())
	began := time.Now()
	_, _, err := all[1].Where(t.Context(), 7) // which has no deadline of its own
	require.ErrorIs(t, err, replicas.ErrAway)
	require.Less(t, time.Since(began), soon)
	becomes(t, lease, replicas.Unknown)
	for _, p := range all {
		p.up(t, 0)
		away(t, p)
	}
	require.NoError(t, redis.Resume())
	for _, p := range all {
		p.up(t, 1)
		p.seesAllOf(t, []string{"grpc://a:1", "grpc://b:1"})
	}
	becomes(t, lease, replicas.Mine)
}

func TestCaller_WithoutTimeHarmsNobody(t *testing.T) {
	t.Parallel()
	redis := start(t)
	p := several(t, redis, "grpc://a:1")[0]
	require.NoError(t, redis.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := p.Get(ctx, "key")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, replicas.ErrAway)
	require.NoError(t, redis.Resume())
	_, err = p.Get(t.Context(), "key")
	require.NoError(t, err)
	require.Zero(t, logged(p, "Redis is away"))
}

func TestReplica_CutOffFromRedisIsHealed(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := severalOf(t, hasty, redis, "grpc://a:1")
	relay := relayTo(t, redis)
	cut := run(t, hasty(relay.address, "grpc://b:1"))
	cut.Here(7, []byte("seven"))
	all[0].Here(8, []byte("eight"))
	all[0].finds(t, 7, "grpc://b:1")
	cut.finds(t, 8, "grpc://a:1")
	restore := relay.BlackHole()
	cut.up(t, 0)
	all[0].finds(t, 7) // nobody is sent there
	all[0].Here(8, nil)
	restore()
	all[0].finds(t, 7, "grpc://b:1")
	cut.finds(t, 8)
}

func TestRegistry_IsHealedWhereRedisForgets(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := severalOf(t, watchful, redis, "grpc://a:1", "grpc://b:1")
	all[1].Here(7, []byte("seven"))
	all[0].finds(t, 7, "grpc://b:1")
	c := reach(t, redis)
	for _, loss := range [][]string{{"FLUSHALL"}, {"HDEL", "gitlab-kas:agents:grpc://b:1", "7"}, {"DEL", "gitlab-kas:agents:grpc://b:1"}} {
		require.NoError(t, c.Do(t.Context(), c.B().Arbitrary(loss...).Build()).Error())
		testkit.Eventually(t, func() error {
			has, err := c.Do(t.Context(), c.B().Hexists().Key("gitlab-kas:agents:grpc://b:1").Field("7").Build()).AsBool()
			if err != nil || !has {
				return fmt.Errorf("after %v: %w", loss, errors.Join(errors.New("it is not there"), err))
			}
			return nil
		})
		all[0].finds(t, 7, "grpc://b:1")
	}
	require.Zero(t, logged(all[1], "Redis is away"))
}

func TestRedis_ThatTakesNoWritesIsAway(t *testing.T) {
	t.Parallel()
	redis := start(t)
	p := severalOf(t, watchful, redis, "grpc://a:1")[0]
	c := reach(t, redis)
	for _, row := range []struct {
		reason      string
		spoil, mend []string
	}{
		{"OOM", []string{"CONFIG", "SET", "maxmemory", "1"}, []string{"CONFIG", "SET", "maxmemory", "0"}},
		{"READONLY", []string{"REPLICAOF", "127.0.0.1", "1"}, []string{"REPLICAOF", "NO", "ONE"}},
	} {
		require.NoError(t, c.Do(t.Context(), c.B().Arbitrary(row.spoil...).Build()).Error())
		p.up(t, 0)
		away(t, p)
		_, err := p.Get(t.Context(), "k")
		require.ErrorContains(t, err, row.reason)
		require.NoError(t, c.Do(t.Context(), c.B().Arbitrary(row.mend...).Build()).Error())
		p.up(t, 1)
	}
	p.seesAllOf(t, []string{"grpc://a:1"})
}

func TestRedis_WithAWrongPasswordSaysSo(t *testing.T) {
	t.Parallel()
	redis := startWith(t, sandbox.RedisConfig{Password: "right"})
	cfg := config(redis.Address, "grpc://a:1")
	cfg.Redis.Password = "wrong"
	p := run(t, cfg)
	testkit.Eventually(t, func() error {
		if _, err := p.Get(t.Context(), "k"); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
			return fmt.Errorf("the error is %w", errors.Join(errors.New("other"), err))
		}
		return nil
	})
	require.Equal(t, 1, logged(p, "Redis is away"))
	for _, entry := range p.log.All() {
		require.NotContains(t, fmt.Sprint(entry.ContextMap()), "wrong")
	}
	cfg.Self, cfg.Redis.Password = "grpc://b:1", "right"
	run(t, cfg).up(t, 1)
}

func TestReplica_StartsBeforeRedis(t *testing.T) {
	t.Parallel()
	redis := start(t)
	redis.Process.Kill()
	p := run(t, config(redis.Address, "grpc://a:1"))
	p.Here(7, []byte("seven"))
	away(t, p)
	require.NoError(t, redis.Process.Start(t.Context()))
	p.up(t, 1)
	entriesAre(t, run(t, config(redis.Address, "grpc://b:1")), []int64{7}, "7 grpc://a:1 seven")
}

func TestRedis_OnAUnixSocket(t *testing.T) {
	t.Parallel()
	redis := start(t)
	cfg := config(redis.Socket, "grpc://a:1")
	cfg.Redis.Network, cfg.Redis.Database = "unix", 3
	run(t, cfg).up(t, 1)
}

func TestRun_EndsSoonWhateverRedisDoes(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := severalOf(t, hasty, redis, "grpc://a:1", "grpc://b:1")
	require.NoError(t, redis.Pause())
	began := time.Now()
	all[0].end() // Redis says nothing until this has come back
	require.Less(t, time.Since(began), soon)
	all[1].up(t, 0)
	began = time.Now()
	all[1].end()
	require.Less(t, time.Since(began), soon)
	require.NoError(t, redis.Resume())
}

package redis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/replicas"
)

func TestWhere_FollowsAnAgentFromReplicaToReplica(t *testing.T) {
	t.Parallel()
	all := several(t, start(t), "grpc://a:1", "grpc://b:1", "grpc://c:1")
	a, b, c := all[0], all[1], all[2]
	a.finds(t, 7) // nowhere
	b.Here(7, []byte("seven"))
	a.finds(t, 7, "grpc://b:1")
	b.finds(t, 7) // it is asked about the others
	c.Here(7, []byte("seven too"))
	a.finds(t, 7, "grpc://b:1", "grpc://c:1")
	b.Here(7, nil)
	a.finds(t, 7, "grpc://c:1")
	b.finds(t, 7, "grpc://c:1")
	c.finds(t, 7)
	c.Here(7, nil)
	a.finds(t, 7)
}

func TestWhere_AsksRedisOnceUntilSomethingChanges(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	all[1].Here(7, []byte("seven"))
	all[0].finds(t, 7, "grpc://b:1")
	settled(t, all[0], all[1])
	_, changed, err := all[0].Where(t.Context(), 7)
	require.NoError(t, err)
	before := asked(t, all[0], "where")
	for range 100 {
		urls, again, err := all[0].Where(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, []string{"grpc://b:1"}, urls)
		require.Equal(t, changed, again)
	}
	require.InDelta(t, before, asked(t, all[0], "where"), 0)
	all[1].Here(8, []byte("another"))
	all[1].Here(7, []byte("seven, but otherwise"))
	entriesAre(t, all[0], nil, "7 grpc://b:1 seven, but otherwise", "8 grpc://b:1 another")
	require.InDelta(t, before, asked(t, all[0], "where"), 0, "where it is has not changed")
	all[1].Here(7, nil)
	<-changed
}

// settled waits until the news of all that another said before has come to a replica, which
// may be after the answer has: it says one thing after another.
func settled(t *testing.T, p, other *replica) {
	t.Helper()
	const last = 1000
	_, news, err := p.Where(t.Context(), last)
	require.NoError(t, err)
	other.Here(last, []byte("the last one"))
	<-news
	other.Here(last, nil)
	p.finds(t, last)
}

// asked is how many calls there were of that kind, with whatever result.
func asked(t *testing.T, p *replica, call string) (calls float64) {
	t.Helper()
	return answered(t, p, call, "")
}

// answered is how many calls there were of that kind with that result, or with any.
func answered(t *testing.T, p *replica, call, result string) (calls float64) {
	t.Helper()
	families, err := p.metrics.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := m.GetLabel()
			if family.GetName() == "kas_redis_calls_total" && labels[0].GetValue() == call && (result == "" || labels[1].GetValue() == result) {
				calls += m.GetCounter().GetValue()
			}
		}
	}
	return calls
}

// entriesAre waits until Entries are these: agent, URL, data.
func entriesAre(t *testing.T, p *replica, agentIDs []int64, want ...string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		entries, err := p.Entries(t.Context(), agentIDs)
		if err != nil {
			return err
		}
		got := make([]string, len(entries))
		for i, e := range entries {
			got[i] = fmt.Sprintf("%d %s %s", e.AgentID, e.URL, e.Data)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("entries are %q, not %q", got, want)
		}
		return nil
	})
}

func TestRegistry_IsKeptUpWithOneCallHoweverManyAgents(t *testing.T) {
	t.Parallel()
	all := severalOf(t, func(address, url string) replicas.Config {
		cfg := watchful(address, url)
		cfg.EntryTTL = 3 * time.Second
		return cfg
	}, start(t), "grpc://a:1", "grpc://b:1")
	const n = 10_000
	for id := range int64(n) {
		all[1].Here(id, make([]byte, 100))
	}
	complete := func() error {
		entries, err := all[0].Entries(t.Context(), nil)
		if err != nil || len(entries) != n {
			return fmt.Errorf("%d entries, %w", len(entries), err)
		}
		return nil
	}
	testkit.Eventually(t, complete)
	written, kept, began := asked(t, all[1], "register"), asked(t, all[1], "alive"), time.Now()
	require.Less(t, written, float64(n)/10) // one for all that came while the one before was under way
	testkit.Eventually(t, func() error {
		if time.Since(began) < 4*time.Second { // longer than what is not kept up lasts
			return errors.New("not yet")
		}
		return complete()
	})
	periods := float64(time.Since(began)) / float64(time.Second*2/5) // of AliveTTL
	require.Greater(t, asked(t, all[1], "alive"), kept)
	require.Less(t, asked(t, all[1], "alive"), kept+periods+10)
	// Where the machine is so busy that entries expire, they are written again, together.
	require.Less(t, asked(t, all[1], "register"), written+float64(n)/100)
}

func TestEntries_AreThoseOfAllReplicas(t *testing.T) {
	t.Parallel()
	all := several(t, start(t), "grpc://a:1", "grpc://b:1")
	for i := range int64(3) {
		all[0].Here(i, fmt.Appendf(nil, "a%d", i))
	}
	all[1].Here(1, []byte("b1"))
	for _, p := range all {
		entriesAre(t, p, nil, "0 grpc://a:1 a0", "1 grpc://a:1 a1", "1 grpc://b:1 b1", "2 grpc://a:1 a2")
		entriesAre(t, p, []int64{1, 2, 99}, "1 grpc://a:1 a1", "1 grpc://b:1 b1", "2 grpc://a:1 a2")
	}
}

func TestReplica_ThatEndsTakesBackThatItIsThere(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1", "grpc://b:1")
	all[1].Here(7, []byte("seven"))
	all[0].finds(t, 7, "grpc://b:1")
	all[1].end()
	c := reach(t, redis)
	alive, err := c.Do(t.Context(), c.B().Zrange().Key("gitlab-kas:replicas").Min("0").Max("-1").Build()).AsStrSlice()
	require.NoError(t, err)
	require.Equal(t, []string{"grpc://a:1"}, alive)
	all[0].finds(t, 7)
	all[0].seesAllOf(t, []string{"grpc://a:1"})
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("*b:1*").Build()).AsStrSlice()
	require.NoError(t, err)
	for _, key := range keys { // what it had goes of itself, once the others have read it
		left, err := c.Do(t.Context(), c.B().Pttl().Key(key).Build()).AsInt64()
		require.NoError(t, err)
		require.Positive(t, left, "%s stays for ever", key)
	}
}

// orphans are those that a replica is told of, and when it is its turn.
type orphans struct {
	mu   sync.Mutex
	told []string
}

func (o *orphans) take(ids []int64, turn int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, fmt.Sprintf("%v turn %d", ids, turn))
}

func (o *orphans) are(t *testing.T, want ...string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if !slices.Equal(o.told, want) {
			return fmt.Errorf("told of %q, want %q", o.told, want)
		}
		return nil
	})
}

func TestOrphans_AreToldOfToAllThatAreLeft(t *testing.T) {
	t.Parallel()
	redis := start(t)
	listen := func(address, url string, alive time.Duration) (*replica, *orphans) {
		told := &orphans{}
		cfg := config(address, url)
		cfg.AliveTTL = alive // of no two more than twice the other's
		return runWith(t, cfg, func(r *replicas.Replicas) { r.Orphans(told.take) }), told
	}
	relay := relayTo(t, redis)
	const long, short = 10 * time.Second, 6 * time.Second // nobody is to be taken for gone who is only slow
	a, toldA := listen(redis.Address, "grpc://a:1", long)
	b, toldB := listen(redis.Address, "grpc://b:1", long)
	c, _ := listen(redis.Address, "grpc://c:1", long)
	d, _ := listen(relay.address, "grpc://d:1", short)
	all := []string{a.url, b.url, c.url, d.url}
	a.seesAllOf(t, all)
	b.seesAllOf(t, all)
	c.Here(7, []byte("seven"))
	c.Here(8, []byte("eight"))
	a.finds(t, 7, c.url)
	a.finds(t, 8, c.url)
	c.end()
	toldA.are(t, "[7 8] turn 0")
	toldB.are(t, "[7 8] turn 1")

	d.Here(9, []byte("nine"))
	a.finds(t, 9, d.url)
	b.finds(t, 9, d.url)
	restore := relay.BlackHole() // it is not there any more, and has not said so
	defer restore()
	toldA.are(t, "[7 8] turn 0", "[9] turn 0")
	toldB.are(t, "[7 8] turn 1", "[9] turn 1")
}

func TestOrphans_AreToldOfToWhoHasTheURLNext(t *testing.T) {
	t.Parallel()
	redis := start(t)
	relay := relayTo(t, redis)
	before := run(t, config(relay.address, "grpc://b:1"))
	before.Here(7, []byte("seven"))
	watcher := run(t, config(redis.Address, "grpc://a:1"))
	watcher.finds(t, 7, "grpc://b:1")
	restore := relay.BlackHole()
	defer restore()
	told := &orphans{}
	runWith(t, config(redis.Address, "grpc://b:1"), func(r *replicas.Replicas) { r.Orphans(told.take) })
	told.are(t, "[7] turn 1")
}

// What a replica that was killed has said is what one says that has lost its Redis.
func TestReplica_ThatIsKilledIsForgotten(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := severalOf(t, hasty, redis, "grpc://a:1")
	relay := relayTo(t, redis)
	dead := run(t, hasty(relay.address, "grpc://b:1"))
	dead.Here(7, []byte("seven"))
	all[0].finds(t, 7, "grpc://b:1")
	restore := relay.BlackHole()
	defer restore()
	all[0].finds(t, 7)
	all[0].seesAllOf(t, []string{"grpc://a:1"})
	c := reach(t, redis)
	testkit.Eventually(t, func() error { // of itself, in the end
		if n, err := c.Do(t.Context(), c.B().Exists().Key("gitlab-kas:agents:grpc://b:1").Build()).AsInt64(); err != nil || n != 0 {
			return fmt.Errorf("%d keys, %w", n, err)
		}
		return nil
	})
}

func TestReplica_ThatIsStartedAnewForgetsItsAgents(t *testing.T) {
	t.Parallel()
	redis := start(t)
	all := several(t, redis, "grpc://a:1")
	relay := relayTo(t, redis)
	before := run(t, config(relay.address, "grpc://b:1"))
	before.Here(7, []byte("seven"))
	all[0].finds(t, 7, "grpc://b:1")
	restore := relay.BlackHole() // it is not there any more, and has not said so
	defer restore()
	after := run(t, config(redis.Address, "grpc://b:1"))
	after.Here(8, []byte("eight"))
	all[0].finds(t, 8, "grpc://b:1")
	all[0].finds(t, 7)
}

func TestReplica_SaysWhereAnotherHasItsURL(t *testing.T) {
	t.Parallel()
	redis := start(t)
	a := severalOf(t, watchful, redis, "grpc://a:1")[0]
	run(t, watchful(redis.Address, "grpc://a:1"))
	testkit.Eventually(t, func() error {
		for _, entry := range a.log.All() {
			if strings.Contains(entry.Message, "private_api.own_url") {
				return nil
			}
		}
		return fmt.Errorf("the log is %v", a.log.All())
	})
}

func TestReplicas_WithPrefixesOfTheirOwnDoNotMeet(t *testing.T) {
	t.Parallel()
	redis := start(t)
	cfg := config(redis.Address, "grpc://b:1")
	cfg.Redis.Prefix = "others"
	other := run(t, cfg)
	other.up(t, 1)
	other.Here(7, []byte("seven"))
	all := several(t, redis, "grpc://a:1")
	entriesAre(t, other, nil, "7 grpc://b:1 seven")
	entriesAre(t, all[0], nil)
}

func TestReplicas_AloneWorkWithoutRedis(t *testing.T) {
	t.Parallel()
	p := run(t, replicas.Config{})
	p.Here(7, []byte("seven"))
	entriesAre(t, p, nil, "7  seven")
	urls, changed, err := p.Where(t.Context(), 7)
	require.NoError(t, err)
	require.Empty(t, urls)
	require.NotNil(t, changed)
	others, err := p.Others(t.Context())
	require.NoError(t, err)
	require.Empty(t, others)
	p.Tell("topic", []byte("message"))
	require.NoError(t, p.Put(t.Context(), "key", map[string][]byte{"f": []byte("v")}, 1))
	got, err := p.Get(t.Context(), "key")
	require.NoError(t, err)
	require.Empty(t, got)
	require.NoError(t, p.Remove(t.Context(), "key"))
	ok, _ := p.Limiter("l", 0.001, 1).Allow(t.Context(), "k")
	require.True(t, ok)
	state, _ := p.Lease("l").State()
	require.Equal(t, replicas.Unknown, state)
}

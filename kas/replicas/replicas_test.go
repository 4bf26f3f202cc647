package replicas

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/internal/testkit"
)

func TestNew_SaysWhatIsMissing(t *testing.T) {
	for name, row := range map[string]struct {
		cfg  Config
		want string
	}{
		"a URL of its own":       {Config{Redis: Redis{Addresses: []string{nowhere}}}, "URL of this one's private API"},
		"Sentinels without name": {Config{Self: "grpc://a:1", Redis: Redis{Addresses: []string{nowhere, nowhere}}}, "name of the master"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(row.cfg, Collaborators{Registerer: prometheus.NewRegistry(), Log: zap.NewNop()})
			require.ErrorContains(t, err, row.want)
		})
	}
}

func TestNew_KnowsOfALostLeaseBeforeOthersGetIt(t *testing.T) {
	cfg := Config{LeaseTTL: 3 * time.Second}
	require.NoError(t, cfg.complete())
	// Renewed after a third of it, and without an answer for the time of a call, it is
	// given up before nine tenths.
	require.Less(t, cfg.LeaseTTL/3+cfg.Redis.WriteTimeout, cfg.LeaseTTL*9/10)
}

func TestRun_EndsWhereThereIsNoRedis(t *testing.T) {
	r, _ := without(t)
	r.cfg.Clock = nil
	require.NoError(t, r.cfg.complete())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	testkit.Eventually(t, func() error {
		if _, err := r.Get(ctx, "k"); err == nil || errors.Is(err, errNotYet) {
			return errors.New("it has not been tried")
		}
		return nil
	})
	_, err := r.Get(ctx, "k")
	require.ErrorIs(t, err, ErrAway)
	require.ErrorContains(t, err, "connection refused")
	cancel()
	require.NoError(t, <-done)
}

func TestAway_ReasonsAreLoggedOnceEach(t *testing.T) {
	require.Empty(t, kindOf(errors.New("read tcp 127.0.0.1:43210: reset")))
}

func TestWhere_IsToldWhileRedisIsAwayButNotForEver(t *testing.T) {
	r, c := without(t)
	r.where.back()
	r.where.others([]string{"grpc://b:1"})
	a, others := r.where.ask(7)
	require.Equal(t, []string{"grpc://b:1"}, others)
	require.False(t, a.known)
	r.where.learn(7, &a, []string{"grpc://b:1"})
	r.where.away()

	c.Step(59 * time.Second)
	r.where.away() // it still is
	urls, changed, err := r.Where(t.Context(), 7)
	require.NoError(t, err)
	require.Equal(t, []string{"grpc://b:1"}, urls)
	all, err := r.Others(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"grpc://b:1"}, all)
	require.Empty(t, closed(changed))

	c.Step(time.Second)
	_, changed, err = r.Where(t.Context(), 7)
	require.ErrorIs(t, err, ErrAway)
	_, err = r.Others(t.Context())
	require.ErrorIs(t, err, ErrAway)
	r.where.back()
	<-changed
}

// closed is not empty where the channel is.
func closed(c <-chan struct{}) string {
	select {
	case <-c:
		return "closed"
	default:
		return ""
	}
}

func TestWhere_KeepsNoAnswerThatMayBeOld(t *testing.T) {
	r, _ := without(t)
	r.where.back()
	a, _ := r.where.ask(7)
	r.heardControl("0123456789abcdef" + "a" + "6 7 8") // while Redis is being asked
	r.where.learn(7, &a, []string{"grpc://b:1"})
	require.Equal(t, "closed", closed(a.changed))
	again, _ := r.where.ask(7)
	require.False(t, again.known)
}

func TestWhere_KeepsABoundedNumberOfAnswers(t *testing.T) {
	r, _ := without(t)
	first, _ := r.where.ask(0)
	for id := range int64(maxAnswers) {
		r.where.ask(id + 1)
	}
	<-first.changed // whoever waits asks again
	require.Equal(t, maxAnswers, r.where.answers.Len())
}

func TestQueue_IsBoundedAndSaysWhatIsLost(t *testing.T) {
	q := newQueue()
	for range maxQueued {
		require.True(t, q.put(event{}))
	}
	require.False(t, q.put(event{}))
	events, lost := q.take()
	require.Len(t, events, maxQueued)
	require.True(t, lost)
	for range 16 {
		require.True(t, q.put(event{message: make([]byte, 1<<20)}))
	}
	require.False(t, q.put(event{message: []byte("x")}))
	_, _ = q.take()
	events, lost = q.take()
	require.Empty(t, events)
	require.False(t, lost)
}

func FuzzControl(f *testing.F) {
	f.Add("")
	f.Add("0123456789abcdef")
	f.Add("0123456789abcdefa1 2 3")
	f.Add("0123456789abcdefa1 zwei")
	f.Add("0123456789abcdeflrepo\n\n")
	f.Add("0123456789abcdefr")
	r, err := New(Config{Self: "grpc://a:1", Redis: Redis{Addresses: []string{nowhere}}},
		Collaborators{Registerer: prometheus.NewRegistry(), Log: zap.NewNop()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, message string) { r.heardControl(message) })
}

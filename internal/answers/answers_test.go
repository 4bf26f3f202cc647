package answers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is RoR, which answers what the test wants.
type rig struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	*Answers[int]
	told []How
}

func start(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0))}
	cfg.Clock, cfg.Max = r.clock, max(cfg.Max, 3)
	cfg.Told = func(how How) { r.told = append(r.told, how) }
	r.Answers = New[int](cfg)
	return r
}

// ask asks a question to which RoR would answer so.
func (r *rig) ask(key byte, answer int, err error) (int, bool, error) {
	r.t.Helper()
	value, until, hit, err := r.Get(r.t.Context(), Question{key}, func(context.Context) (int, error) { return answer, err })
	if err == nil && until.Before(r.clock.Now()) {
		r.t.Errorf("it was good until %s", until)
	}
	return value, hit, err
}

// expect asks likewise, and knows what comes.
func (r *rig) expect(key byte, answer int, err error, want int, wantErr error) {
	r.t.Helper()
	got, _, gotErr := r.ask(key, answer, err)
	require.ErrorIs(r.t, gotErr, wantErr)
	require.Equal(r.t, want, got)
}

var errAway = fmt.Errorf("%w: for a test", gitlabapi.ErrUnavailable)

func TestGet_RemembersAnswersAndRefusals(t *testing.T) {
	r := start(t, Config{TTL: time.Minute, ErrorTTL: 10 * time.Second})
	r.expect(1, 1, nil, 1, nil)
	r.expect(1, 2, nil, 1, nil)
	r.expect(2, 3, gitlabapi.ErrForbidden, 0, gitlabapi.ErrForbidden)
	r.expect(2, 3, nil, 0, gitlabapi.ErrForbidden)
	r.clock.Step(10 * time.Second)
	r.expect(2, 3, nil, 3, nil)
	r.expect(1, 2, nil, 1, nil)
	r.clock.Step(50 * time.Second)
	r.expect(1, 2, nil, 2, nil)
	require.Equal(t, []How{Asked, Hit, Asked, Hit, Asked, Hit, Asked}, r.told)
}

func TestGet_OnlyAValueOutlivesTrouble(t *testing.T) {
	r := start(t, Config{TTL: time.Minute, ErrorTTL: time.Minute, StaleFor: time.Hour})
	r.expect(1, 0, errAway, 0, gitlabapi.ErrUnavailable)
	r.expect(1, 1, nil, 1, nil) // which is not remembered
	r.expect(2, 0, gitlabapi.ErrNotFound, 0, gitlabapi.ErrNotFound)
	r.clock.Step(time.Minute)
	r.expect(1, 0, errAway, 1, nil)
	r.expect(1, 2, nil, 1, nil) // RoR is left alone for a while
	r.expect(2, 0, errAway, 0, gitlabapi.ErrUnavailable)
	r.clock.Step(time.Hour)
	r.expect(1, 0, errAway, 0, gitlabapi.ErrUnavailable)
	require.Equal(t, []How{Asked, Asked, Asked, Stale, Hit, Asked, Asked}, r.told)

	without := start(t, Config{TTL: time.Minute})
	without.expect(1, 1, nil, 1, nil)
	without.clock.Step(time.Minute)
	without.expect(1, 0, errAway, 0, gitlabapi.ErrUnavailable)
}

func TestDoubt_HasRoRAskedAgain(t *testing.T) {
	r := start(t, Config{TTL: time.Minute, ErrorTTL: time.Minute})
	r.expect(1, 1, nil, 1, nil)
	r.expect(2, 2, nil, 2, nil)
	r.Doubt(func(v int) bool { return v == 1 })
	r.expect(1, 3, nil, 3, nil)
	r.expect(2, 3, nil, 2, nil)
	// What RoR said before is no news after it.
	_, _, _, err := r.Get(t.Context(), Question{9}, func(context.Context) (int, error) {
		r.Doubt(func(int) bool { return true })
		return 1, nil
	})
	require.NoError(t, err)
	r.expect(9, 2, nil, 2, nil)
}

func TestAnswers_AreBounded(t *testing.T) {
	r := start(t, Config{TTL: time.Minute, Max: 3})
	for i, key := range []byte{1, 2, 3, 1, 4} {
		_, _, _ = r.ask(key, i, nil)
	}
	require.Len(t, r.byKey, 3)
	require.Equal(t, 3, r.recent.Len())
	v, hit, _ := r.ask(1, 9, nil) // it was used lately
	require.True(t, hit)
	require.Zero(t, v)
	_, hit, _ = r.ask(2, 9, nil)
	require.False(t, hit)
}

func TestAnswers_AskRoROnlySoMuchAtOnce(t *testing.T) {
	const maxAsking = 4
	a := New[int](Config{Clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0)), Max: 100, MaxAsking: maxAsking, AskingWait: time.Hour})
	var now, most atomic.Int64
	gate := make(chan struct{})
	var g errgroup.Group
	for i := range 3 * maxAsking {
		g.Go(func() error {
			_, _, _, err := a.Get(t.Context(), Question{byte(i)}, func(context.Context) (int, error) {
				defer now.Add(-1)
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				<-gate
				return 1, nil
			})
			return err
		})
	}
	testkit.Eventually(t, func() error {
		if n := now.Load(); n != maxAsking {
			return fmt.Errorf("%d questions are being asked", n)
		}
		return nil
	})
	close(gate)
	require.NoError(t, g.Wait())
	require.LessOrEqual(t, most.Load(), int64(maxAsking))
}

func TestAnswers_NobodyWaitsForeverToAsk(t *testing.T) {
	a := New[int](Config{Clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0)), Max: 100, MaxAsking: 1})
	asked, gate, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, _, _, err := a.Get(t.Context(), Question{1}, func(context.Context) (int, error) {
			close(asked)
			<-gate
			return 1, nil
		})
		ended <- err
	}()
	<-asked
	_, _, _, err := a.Get(t.Context(), Question{2}, func(context.Context) (int, error) { return 2, nil })
	require.ErrorIs(t, err, ErrAsking)
	close(gate)
	require.NoError(t, <-ended)
}

func TestGet_ACallerThatGivesUpEndsNobodyElsesCall(t *testing.T) {
	a := New[int](Config{Clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0)), TTL: time.Minute, Max: 10})
	asked, gate := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, _, _, err := a.Get(ctx, Question{1}, func(ctx context.Context) (int, error) {
			close(asked)
			<-gate
			return 1, ctx.Err()
		})
		left <- err
	}()
	<-asked
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	close(gate)
	value, _, _, err := a.Get(t.Context(), Question{1}, func(context.Context) (int, error) { return 0, errors.New("asked twice") })
	require.NoError(t, err)
	require.Equal(t, 1, value)
}

package gitops_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/gitops"
)

var errBusy = errors.New("too many requests, please try again later")

// troubled is an observer that wants to hear of trouble.
type troubled struct {
	*observer
	mu   sync.Mutex
	said []string
}

func (o *troubled) Trouble(message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = append(o.said, message)
}

// stepping runs the engine with a clock that goes on whenever somebody waits for it.
func stepping(t *testing.T, f *fakeCluster, p gitops.Project, d gitops.Desired, o gitops.Observer, step time.Duration) (gitops.Result, time.Duration, error) {
	t.Helper()
	clk := testclock.NewFakeClock(time.Now())
	began := clk.Now()
	p.Clock = clk
	ended := make(chan struct{})
	var steps sync.WaitGroup
	steps.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
				if clk.HasWaiters() {
					clk.Step(step)
				}
			}
		}
	})
	result, err := gitops.Run(t.Context(), f, p, d, o)
	close(ended)
	steps.Wait()
	return result, clk.Since(began), err
}

func TestRun_ThrottledObjectsAreSentAgainAndDoNotFail(t *testing.T) {
	w := newWorld()
	f := w.process()
	var mu sync.Mutex
	refusals := map[string]int{}
	f.fault = func(call string) error {
		if !strings.HasPrefix(call, "before apply") {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if refusals[call]++; refusals[call] <= 3 {
			return &gitops.ThrottledError{RetryAfter: 2 * time.Second, Err: errBusy}
		}
		return nil
	}
	docs := make([]string, 20)
	for i := range docs {
		docs[i] = cm(fmt.Sprintf("cm-%d", i), "1")
	}
	p := project()
	p.Parallel = 8
	o := &troubled{observer: newObserver()}
	result, took, err := stepping(t, f, p, set(t, docs...), o, 100*time.Millisecond)
	require.NoError(t, err)
	require.Zero(t, result.Failed)
	require.Len(t, w.names(), 20)
	require.GreaterOrEqual(t, took, 6*time.Second, "it waits as long as it is asked to")
	require.Contains(t, o.said[0], "the API server is busy")
	require.Empty(t, o.said[len(o.said)-1], "and says that it is over")
}

func TestRun_FewerAreInFlightAfterThrottling(t *testing.T) {
	w := newWorld()
	f := w.process()
	var flying, most atomic.Int64
	var throttled atomic.Bool
	gate := make(chan struct{})
	f.fault = func(call string) error {
		switch {
		case strings.HasPrefix(call, "before apply"):
			if n := flying.Add(1); throttled.Load() && n > most.Load() {
				most.Store(n)
			} else if n == 8 {
				throttled.Store(true) // all of the first round at once
				close(gate)
			}
			<-gate
			if strings.HasSuffix(call, "-0") {
				flying.Add(-1)
				return &gitops.ThrottledError{Err: errBusy}
			}
		case strings.HasPrefix(call, "after apply"):
			flying.Add(-1)
		}
		return nil
	}
	docs := make([]string, 8)
	for i := range docs {
		docs[i] = cm(fmt.Sprintf("cm-%d", i), "1")
	}
	p := project()
	p.Parallel = 8
	result, _, err := stepping(t, f, p, set(t, docs...), newObserver(), time.Second)
	require.NoError(t, err)
	require.Equal(t, 1, result.Failed, "the one that is throttled for ever")
	require.Less(t, most.Load(), int64(8))
}

func TestRun_ObjectThatIsThrottledForLongFails(t *testing.T) {
	f := newWorld().process()
	f.fault = func(call string) error {
		if call == "before apply bad" {
			return &gitops.ThrottledError{Err: errBusy}
		}
		return nil
	}
	o := newObserver()
	got, took, err := stepping(t, f, project(), set(t, cm("bad", "1"), cm("good", "1")), o, time.Second)
	require.NoError(t, err)
	require.Equal(t, 1, got.Failed)
	require.Equal(t, gitops.ActionFailed, o.get("bad").Action)
	require.Equal(t, "put off for 2m0s: "+errBusy.Error(), o.get("bad").Message)
	require.Equal(t, gitops.ActionCreated, o.get("good").Action)
	require.GreaterOrEqual(t, took, 2*time.Minute)
}

func TestRun_TransientErrorIsTriedAgainAtOnce(t *testing.T) {
	for _, row := range []struct {
		name   string
		errors int
		failed int
	}{
		{"two errors are overcome", 2, 0},
		{"three are too many for one run", 3, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newWorld().process()
			tries := 0
			f.fault = func(call string) error {
				if call != "before apply a" {
					return nil
				}
				if tries++; tries <= row.errors {
					return &gitops.KindError{Kind: gitops.ErrTransient, Err: errRefused}
				}
				return nil
			}
			got, took, err := stepping(t, f, project(), set(t, cm("a", "1")), newObserver(), 10*time.Millisecond)
			require.NoError(t, err)
			require.Equal(t, row.failed, got.Failed)
			require.Equal(t, 3, tries)
			require.Less(t, took, time.Second)
		})
	}
}

func TestRun_NewerCommitDoesNotWaitForWhatIsThrottled(t *testing.T) {
	f := newWorld().process()
	ctx, cancel := context.WithCancel(t.Context())
	f.fault = func(call string) error {
		if call == "before apply a" {
			cancel()
			return &gitops.ThrottledError{RetryAfter: time.Hour, Err: errBusy}
		}
		return nil
	}
	p := project()
	p.Clock = testclock.NewFakeClock(time.Now())
	_, err := gitops.Run(ctx, f, p, set(t, cm("a", "1")), newObserver())
	require.ErrorIs(t, err, context.Canceled)
}

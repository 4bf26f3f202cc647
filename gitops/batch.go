package gitops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/inventory"
)

const (
	// transientTries is how often a request is sent again at once, within a second,
	// after an error that may pass in a moment.
	transientTries = 2
	// throttledFor is how long the API server may throttle one object until that
	// counts as its failure.
	throttledFor = 2 * time.Minute
	// firstPause and longestPause before a request is sent again. What the API
	// server asks for, where it is longer, comes first.
	firstPause, longestPause = 100 * time.Millisecond, 10 * time.Second
	// pauseJitter spreads what would all be sent again at the same time.
	pauseJitter = 0.5
)

// batch carries out steps side by side: as many at a time as limit allows, each
// again where its error is one that passes. Objects that fail for good wait for the
// next Run, which costs no request for those that are as they should be; so the wait
// of one object delays no other.
type batch struct {
	clock clock.Clock
	limit *Limit
	// parallel is how many may be in flight at most, whatever the limit says.
	parallel int
	// ready says whether a step may be carried out, and settles it if it may not.
	ready func(*Step) bool
	// send does a step's requests, in a worker.
	send func(context.Context, *Step) outcome
	// settle records what a step came to. Its error stops the batch.
	settle func(outcome) error
	// throttled is told of every step that has to wait, and why.
	throttled func(*Step, error)

	steps []Step
	// next of the steps that was never sent.
	next int
	// again are to be sent again, the earliest first.
	again []*attempt
	// flying is how many are in the workers' hands.
	flying int
}

// attempt is a step on its way.
type attempt struct {
	step *Step
	got  outcome
	// epoch of the limit when it was sent.
	epoch int
	// at is when it may be sent again.
	at time.Time
	// tries that met a transient error.
	tries int
	// since is when it was first throttled.
	since time.Time
	pause *backoff.ExponentialBackOff
}

// outcome of a step.
type outcome struct {
	step *Step
	live Live
	err  error
	// digest of what was applied, for the inventory.
	digest inventory.Hash
}

// run returns an error if settle does or ctx has ended; the steps in flight are
// finished then, and the others left as they are.
func (b *batch) run(ctx context.Context) error {
	parallel := min(b.parallel, len(b.steps))
	jobs := make(chan *attempt)
	done := make(chan *attempt, parallel)
	var workers errgroup.Group
	for range parallel {
		workers.Go(func() error {
			for a := range jobs {
				a.got = b.send(ctx, a.step)
				done <- a
			}
			return nil
		})
	}
	err := b.feed(ctx, jobs, done)
	close(jobs)
	return errors.Join(err, workers.Wait())
}

// feed hands steps to the workers and settles what comes back.
func (b *batch) feed(ctx context.Context, jobs chan<- *attempt, done <-chan *attempt) error {
	var stop error
	ended := ctx.Done()
	for {
		if stop == nil {
			stop = ctx.Err()
		}
		var due *attempt
		var wait time.Duration
		if stop == nil {
			due, wait = b.due()
		}
		if due == nil && wait == 0 && b.flying == 0 {
			return stop
		}
		var free chan<- *attempt
		if due != nil {
			free = jobs
		}
		tick, stopTick := timer(b.clock, wait)
		select {
		case free <- due:
			b.taken(due)
		case a := <-done:
			b.flying--
			if b.retry(a) {
				break
			}
			if err := b.settle(a.got); err != nil && stop == nil {
				stop = err
			}
		case <-tick:
		case <-ended:
			ended = nil
		}
		stopTick()
	}
}

// due returns what may be sent now, or how long until something may; neither, if
// only an answer can change that.
func (b *batch) due() (*attempt, time.Duration) {
	for b.next < len(b.steps) && !b.ready(&b.steps[b.next]) {
		b.next++
	}
	if b.next == len(b.steps) && len(b.again) == 0 {
		return nil, 0
	}
	now := b.clock.Now()
	ok, wait, epoch := b.limit.room(now, b.flying)
	switch {
	case !ok:
		return nil, wait
	case len(b.again) > 0 && !b.again[0].at.After(now):
		b.again[0].epoch = epoch
		return b.again[0], 0
	case b.next < len(b.steps):
		return &attempt{step: &b.steps[b.next], epoch: epoch}, 0
	default:
		return nil, b.again[0].at.Sub(now)
	}
}

// taken notes that a worker has taken what was due.
func (b *batch) taken(a *attempt) {
	b.flying++
	if len(b.again) > 0 && b.again[0] == a {
		b.again = b.again[1:]
	} else {
		b.next++
	}
}

// retry puts an attempt off if it is to be made again.
func (b *batch) retry(a *attempt) bool {
	now := b.clock.Now()
	var asked time.Duration
	var throttled *ThrottledError
	switch {
	case errors.As(a.got.err, &throttled):
		b.limit.throttled(now, a.epoch, throttled.RetryAfter)
		if a.since.IsZero() {
			a.since = now
		}
		if now.Sub(a.since) >= throttledFor {
			a.got.err = fmt.Errorf("put off for %s: %w", throttledFor, a.got.err)
			return false
		}
		asked = throttled.RetryAfter
		b.throttled(a.step, a.got.err)
	case errors.Is(a.got.err, ErrTransient):
		b.limit.answered()
		if a.tries++; a.tries > transientTries {
			return false
		}
	default:
		b.limit.answered()
		return false
	}
	if a.pause == nil {
		a.pause = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(firstPause), backoff.WithMaxInterval(longestPause), backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(pauseJitter), backoff.WithMaxElapsedTime(0))
	}
	a.at = now.Add(asked + a.pause.NextBackOff())
	at, _ := slices.BinarySearchFunc(b.again, a, func(x, y *attempt) int { return x.at.Compare(y.at) })
	b.again = slices.Insert(b.again, at, a)
	return true
}

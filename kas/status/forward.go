package status

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/tracing"
)

const (
	// parallelPosts is how many requests to RoR are in flight at most.
	parallelPosts = 4
	// restAfterPost is how many times as long as a post took the next one of the same
	// project waits: large statuses may not take more than a fifth of the time.
	restAfterPost = 4
	// longestRest bounds that wait.
	longestRest = 5 * time.Second
	// absentRetry is how long RoR is left alone where it does not take statuses at all:
	// GitLab does not, until it is updated.
	absentRetry = 5 * time.Minute
	// lastWords is how long posts that are due may still take when Run's context ends.
	lastWords = 2 * time.Second
)

// Poster sends one update to RoR. Its errors wrap gitlabapi's sentinels.
type Poster interface {
	PostSyncStatus(ctx context.Context, update *syncstatus.Update) error
}

// posting is what a post is about: a project, or where projectID is empty an agent's
// configuration.
type posting struct {
	agentID   int64
	projectID string
}

// item is the state of one posting. It is in the queue when it is due and not in flight.
type item struct {
	posting
	due      bool
	inFlight bool
	// traceparent is the W3C trace context of what made it due last. Empty: none did.
	traceparent string
	// next is the earliest time of the next post.
	next time.Time
}

// forwarder posts what changed to RoR: each posting at most once at a time, its newest
// form always, and nothing but one probe at a time while RoR is away.
type forwarder struct {
	poster   Poster
	clock    clock.WithTicker
	log      *zap.Logger
	interval time.Duration
	// render puts the newest form of an update together; nil: there is nothing to tell.
	render func(posting) *syncstatus.Update
	// told is called when RoR has taken an update.
	told func(*syncstatus.Update)
	wake chan struct{}

	mu       sync.Mutex
	items    map[posting]*item
	queue    queue
	inFlight int
	// away: the last post failed; none is made before resume.
	away     bool
	absent   bool // RoR does not take statuses at all
	resume   time.Time
	backoff  *backoff.ExponentialBackOff
	refusal  string // the last thing that RoR refused to take, so that the log has it once
	draining bool
}

func newForwarder(cfg Config, poster Poster, log *zap.Logger) *forwarder {
	return &forwarder{
		poster:   poster,
		clock:    cfg.Clock,
		log:      log,
		interval: cfg.Interval,
		wake:     make(chan struct{}, 1),
		items:    make(map[posting]*item),
		backoff: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(500*time.Millisecond),
			backoff.WithMaxInterval(15*time.Second),
			backoff.WithMultiplier(2),
			backoff.WithMaxElapsedTime(0),
		),
	}
}

// mark notes that something is to be posted.
func (f *forwarder) mark(what posting) {
	f.mu.Lock()
	f.markLocked(what)
	f.mu.Unlock()
	f.nudge()
}

func (f *forwarder) markLocked(what posting) {
	if f.draining {
		return
	}
	i := f.items[what]
	if i == nil {
		i = &item{posting: what}
		f.items[what] = i
	}
	if i.due {
		return
	}
	i.due = true
	if !i.inFlight {
		heap.Push(&f.queue, i)
	}
}

// trace has the next post about something be of a trace, unless traceparent is empty.
func (f *forwarder) trace(what posting, traceparent string) {
	if traceparent == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markLocked(what)
	if i := f.items[what]; i != nil {
		i.traceparent = traceparent
	}
}

func (f *forwarder) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run posts until ctx ends; then it posts what is due, for lastWords at most.
func (f *forwarder) run(ctx context.Context) error {
	// Posts in flight are not cut off when ctx ends.
	posts, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var g errgroup.Group
	launch := func(i *item) {
		g.Go(func() error { f.post(posts, i); return nil })
	}
	f.serve(ctx, launch)
	f.drain()
	last, stop := context.WithTimeout(posts, lastWords)
	defer stop()
	f.serve(last, launch)
	cancel()
	_ = g.Wait() // no post returns an error
	return ctx.Err()
}

// serve launches what is due until ctx ends or, when draining, nothing is left to do.
func (f *forwarder) serve(ctx context.Context, launch func(*item)) {
	for ctx.Err() == nil {
		i, wait := f.next()
		switch {
		case i != nil:
			launch(i)
			continue
		case wait == nothingLeft:
			return
		}
		f.pause(ctx, wait)
	}
}

// pause waits until there may be something to do, at most for wait (zero: for ever).
func (f *forwarder) pause(ctx context.Context, wait time.Duration) {
	var elapsed <-chan time.Time
	if wait > 0 {
		timer := f.clock.NewTimer(wait)
		defer timer.Stop()
		elapsed = timer.C()
	}
	select {
	case <-ctx.Done():
	case <-f.wake:
	case <-elapsed:
	}
}

// nothingLeft is what next returns when draining has ended.
const nothingLeft = time.Duration(-1)

// next returns what is to be posted now, marked as in flight; or nil and how long to wait
// (zero: until woken).
func (f *forwarder) next() (*item, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining && (f.away || len(f.queue)+f.inFlight == 0) {
		return nil, nothingLeft
	}
	limit := parallelPosts
	if f.away {
		limit = 1
	}
	if len(f.queue) == 0 || f.inFlight >= limit {
		return nil, 0
	}
	at := f.queue[0].next
	if f.away && f.resume.After(at) {
		at = f.resume
	}
	if wait := at.Sub(f.clock.Now()); wait > 0 && !f.draining {
		return nil, wait
	}
	i := heap.Pop(&f.queue).(*item)
	i.due, i.inFlight = false, true
	f.inFlight++
	return i, 0
}

// backlog is how many postings are due or in flight.
func (f *forwarder) backlog() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return float64(len(f.queue) + f.inFlight)
}

// drain stops taking marks and makes everything due at once.
func (f *forwarder) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining = true
}

func (f *forwarder) post(ctx context.Context, i *item) {
	f.mu.Lock()
	traceparent := i.traceparent
	f.mu.Unlock()
	update := f.render(i.posting)
	began := f.clock.Now()
	var err error
	if update != nil {
		err = f.poster.PostSyncStatus(tracing.WithTraceparent(ctx, traceparent), update)
	}
	took := f.clock.Since(began)
	if err == nil && update != nil {
		f.told(update)
	}
	f.mu.Lock()
	if i.traceparent == traceparent && !isLater(err) {
		i.traceparent = ""
	}
	f.settle(i, update, took, err)
	f.mu.Unlock()
	f.nudge()
}

// settle notes how a post went. The lock is held.
func (f *forwarder) settle(i *item, update *syncstatus.Update, took time.Duration, err error) {
	now := f.clock.Now()
	f.inFlight--
	i.next = now.Add(min(max(f.interval, restAfterPost*took), longestRest))
	switch {
	case errors.Is(err, context.Canceled):
	case errors.Is(err, gitlabapi.ErrNoEndpoint):
		if !f.absent {
			f.log.Warn("RoR does not take statuses, so its pages do not show them; everything else works. It is asked again from time to time",
				zap.Duration("every", absentRetry), zap.Error(err))
		}
		f.away, f.absent, f.resume = true, true, now.Add(absentRetry)
		i.due, i.next = true, now
	case isLater(err):
		if !f.away {
			f.log.Warn("RoR does not take statuses now; the newest are kept for it", zap.Error(err))
		}
		f.away, f.resume = true, now.Add(f.backoff.NextBackOff())
		i.due, i.next = true, now
	case err != nil:
		if text := err.Error(); text != f.refusal {
			f.refusal = text
			f.log.Warn("RoR refused a status; it is not offered again before it changes",
				logging.AgentID(i.agentID), logging.Project(i.projectID), zap.Error(err))
		}
	}
	if f.away && (err == nil && update != nil || isRefusal(err)) {
		f.away, f.absent = false, false
		f.backoff.Reset()
		f.log.Info("RoR takes statuses again")
		// Whatever it was that made RoR fail may have cost it what it knew.
		for other := range f.items {
			if other != i.posting {
				f.markLocked(other)
			}
		}
	}
	i.inFlight = false
	switch {
	case i.due:
		heap.Push(&f.queue, i)
	case update == nil || update.GetRemovedProjectId() != "":
		delete(f.items, i.posting)
	}
}

// isLater says that RoR may take later what it did not take.
func isLater(err error) bool {
	return errors.Is(err, gitlabapi.ErrUnavailable) || errors.Is(err, gitlabapi.ErrUnauthorized)
}

func isRefusal(err error) bool {
	if errors.Is(err, gitlabapi.ErrNoEndpoint) {
		return false
	}
	return errors.Is(err, gitlabapi.ErrForbidden) || errors.Is(err, gitlabapi.ErrNotFound) || errors.Is(err, gitlabapi.ErrRejected)
}

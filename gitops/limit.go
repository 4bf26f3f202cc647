package gitops

import (
	"sync"
	"time"
)

// Limit is how many requests a run may have in flight: fewer when the API server
// throttles, more again with every one that it answers (additive increase,
// multiplicative decrease). Runs of several projects may share one: each may have as
// many in flight, so that one whose requests take long delays no other, and all send
// fewer when one is throttled. Its methods may be called by any goroutine; times are
// given to it.
type Limit struct {
	most float64

	mu      sync.Mutex
	current float64
	// epoch counts the decreases. Requests that were sent before the last one are no
	// news: they were in flight together.
	epoch int
	// rest is until when nothing is sent, because the API server throttles even one
	// request at a time.
	rest time.Time
}

// restFor is how long nothing is sent where the API server does not say how long.
const restFor = time.Second

// NewLimit returns one that begins at most, which it never exceeds.
func NewLimit(most int) *Limit {
	return &Limit{most: float64(most), current: float64(most)}
}

// room says whether another request may be sent, and in which epoch that is; if it may
// not because of a rest, how long that lasts.
func (l *Limit) room(now time.Time, flying int) (ok bool, wait time.Duration, epoch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if wait := l.rest.Sub(now); wait > 0 {
		return false, wait, l.epoch
	}
	return float64(flying+1) <= l.current, 0, l.epoch
}

// answered notes a request that was not throttled, whatever became of it.
func (l *Limit) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// About one more for each full round.
	l.current = min(l.most, l.current+1/l.current)
}

// throttled notes a request that was, and that was sent in that epoch.
func (l *Limit) throttled(now time.Time, epoch int, retryAfter time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch {
		return
	}
	l.epoch++
	if l.current < 2 {
		if retryAfter <= 0 {
			retryAfter = restFor
		}
		l.rest = now.Add(retryAfter)
	}
	l.current = max(1, l.current/2)
}

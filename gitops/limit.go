package gitops

import "time"

// limit is how many requests may be in flight: fewer when the API server throttles,
// more again with every one that it answers (additive increase, multiplicative
// decrease). It is pure: times are given to it.
type limit struct {
	most    float64
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

func newLimit(most int) *limit {
	return &limit{most: float64(most), current: float64(most)}
}

// room says whether another request may be sent, and if not because of a rest, how
// long that lasts.
func (l *limit) room(now time.Time, flying int) (ok bool, wait time.Duration) {
	if wait := l.rest.Sub(now); wait > 0 {
		return false, wait
	}
	return float64(flying+1) <= l.current, 0
}

// answered notes a request that was not throttled, whatever became of it.
func (l *limit) answered() {
	// About one more for each full round.
	l.current = min(l.most, l.current+1/l.current)
}

// throttled notes a request that was, and that was sent in that epoch.
func (l *limit) throttled(now time.Time, epoch int, retryAfter time.Duration) {
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

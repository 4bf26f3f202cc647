package proxy

import (
	"container/list"
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// maxBuckets bounds how many persons and jobs a LocalLimiter knows. Who was quiet longest is
// forgotten first.
const maxBuckets = 10_000

// LocalLimiter is a Limiter of one process: a token bucket for each key.
type LocalLimiter struct {
	perSecond rate.Limit
	burst     int
	max       int
	clock     clock.PassiveClock

	mu     sync.Mutex
	byKey  map[string]*list.Element // of *bucket
	recent *list.List               // used last first
}

type bucket struct {
	key     string
	limiter *rate.Limiter
}

// NewLocalLimiter returns a LocalLimiter that lets burst requests through at once, and
// perSecond each second after.
func NewLocalLimiter(perSecond float64, burst int, c clock.PassiveClock) *LocalLimiter {
	return &LocalLimiter{
		perSecond: rate.Limit(perSecond), burst: burst, max: maxBuckets, clock: c,
		byKey: make(map[string]*list.Element), recent: list.New(),
	}
}

// Allow implements Limiter.
func (l *LocalLimiter) Allow(_ context.Context, key string) (ok bool, retryAfter time.Duration) {
	now := l.clock.Now()
	reservation := l.bucket(key).ReserveN(now, 1)
	if !reservation.OK() { // nothing is ever let through
		return false, time.Minute
	}
	if wait := reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return false, wait
	}
	return true, 0
}

func (l *LocalLimiter) bucket(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if element, ok := l.byKey[key]; ok {
		l.recent.MoveToFront(element)
		return element.Value.(*bucket).limiter
	}
	b := &bucket{key: key, limiter: rate.NewLimiter(l.perSecond, l.burst)}
	l.byKey[key] = l.recent.PushFront(b)
	if l.recent.Len() > l.max {
		delete(l.byKey, l.recent.Remove(l.recent.Back()).(*bucket).key)
	}
	return b.limiter
}

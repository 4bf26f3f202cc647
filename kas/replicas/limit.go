package replicas

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"sync"
	"time"
)

const (
	// limitTime bounds how long Redis may take to say whether something is allowed.
	limitTime = 250 * time.Millisecond
	// maxBuckets bounds how many buckets are in memory.
	maxBuckets = 64 << 10
)

// Limiter is token buckets, one for each key, that all replicas take from. While Redis is away
// or slow, each replica has its own.
type Limiter struct {
	r        *Replicas
	name     string
	cost     time.Duration // how long a bucket takes to fill by one
	capacity time.Duration // how long an empty bucket takes to fill

	mu sync.Mutex
	// own buckets are full at these times.
	own times
	// refused until these times, as Redis said: it need not be asked again.
	refused times
}

// Limiter returns one that allows so many a second for each key, and burst at once. Limiters
// of a name must have the same limits everywhere. perSecond 0: there is no limit.
func (r *Replicas) Limiter(name string, perSecond float64, burst int) *Limiter {
	l := &Limiter{r: r, name: name, own: make(times), refused: make(times)}
	if perSecond > 0 {
		l.cost = max(time.Duration(float64(time.Second)/perSecond), time.Microsecond)
		l.capacity = l.cost * time.Duration(max(burst, 1))
	}
	return l
}

// Allow takes from the key's bucket. Where that is empty it is false, and tells after how long
// there may be something in it. Redis does not learn the key, only a hash of it.
func (l *Limiter) Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration) {
	if l.cost == 0 {
		return true, 0
	}
	sum := sha256.Sum256([]byte(key))
	key = base64.RawURLEncoding.EncodeToString(sum[:15])
	now := l.r.cfg.Clock.Now()
	if wait := l.stillRefused(key, now); wait > 0 {
		return false, wait
	}
	if s, _ := l.r.current(); s != nil {
		if wait, err := s.limit(ctx, l, key); err == nil {
			if wait > 0 {
				l.refuse(key, now, wait)
			}
			return wait == 0, wait
		}
	}
	return l.allowHere(key, now)
}

// limit asks Redis.
func (s *session) limit(ctx context.Context, l *Limiter, key string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limitTime)
	defer cancel()
	result, err := s.script(ctx, "limit", limitScript, []string{s.r.key("limit:" + l.name + ":" + key)},
		[]string{micros(l.cost), micros(l.capacity)})
	if err != nil {
		return 0, err
	}
	wait, err := result.AsInt64()
	return time.Duration(wait) * time.Microsecond, err //nolint:wrapcheck // it only decides
}

func micros(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

func (l *Limiter) stillRefused(key string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, ok := l.refused[key]
	if ok && !until.After(now) {
		delete(l.refused, key)
	}
	return until.Sub(now)
}

func (l *Limiter) refuse(key string, now time.Time, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused.set(key, now.Add(wait), now)
}

// allowHere is limitScript in memory.
func (l *Limiter) allowHere(key string, now time.Time) (bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	full := l.own[key]
	if full.Before(now) {
		full = now
	}
	full = full.Add(l.cost)
	if wait := full.Sub(now) - l.capacity; wait > 0 {
		return false, wait
	}
	l.own.set(key, full, now)
	return true, 0
}

// times is moments by key. Those that are past mean as much as none.
type times map[string]time.Time

// set bounds the number: past ones go, and if need be any.
func (t times) set(key string, at, now time.Time) {
	if _, ok := t[key]; !ok && len(t) >= maxBuckets {
		for k, past := range t {
			if !past.After(now) {
				delete(t, k)
			}
		}
		surplus := len(t) - maxBuckets*7/8
		for k := range t {
			if surplus <= 0 {
				break
			}
			delete(t, k)
			surplus--
		}
	}
	t[key] = at
}

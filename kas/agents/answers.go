package agents

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
)

const (
	// StaleFor is how long after RoR last confirmed it an answer is still given while RoR
	// cannot be asked.
	StaleFor = time.Hour
	// staleRetry is how long RoR is left alone about a question that it could not answer
	// and that an old answer serves.
	staleRetry = 15 * time.Second
	// maxAnswers bounds how many answers of one sort are remembered.
	maxAnswers = 50_000
)

// question is the hash of what was asked, so that no token is kept.
type question = [sha256.Size]byte

// answers remembers what RoR answered to one sort of question. The least recently used
// answer goes first when there are too many.
type answers[V any] struct {
	ttl, errorTTL time.Duration
	max           int
	clock         clock.PassiveClock
	asked         func(how string) // counts, by "hit", "asked" and "stale"

	flight singleflight.Group
	mu     sync.Mutex
	// doubts counts the calls of doubt: what was asked before one is no news after it.
	doubts int
	byKey  map[question]*list.Element // of *answer[V]
	recent *list.List                 // most recently used first
}

type answer[V any] struct {
	key   question
	value V
	err   error // RoR's refusal; value is void then
	// expires is when RoR is to be asked again.
	expires time.Time
	// confirmed is when RoR gave value.
	confirmed time.Time
}

func newAnswers[V any](ttl, errorTTL time.Duration, c clock.PassiveClock, asked func(string)) *answers[V] {
	return &answers[V]{
		ttl: ttl, errorTTL: errorTTL, max: maxAnswers, clock: c, asked: asked,
		byKey: make(map[question]*list.Element), recent: list.New(),
	}
}

// get returns the answer to a question and until when it is good, remembered or asked
// anew. Concurrent callers with the same question share one call of ask, which outlives
// a caller that gives up and must be bounded in time by itself.
func (a *answers[V]) get(ctx context.Context, key question, ask func(context.Context) (V, error)) (V, time.Time, error) {
	if known, ok := a.lookup(key); ok && a.clock.Now().Before(known.expires) {
		a.asked("hit")
		return known.value, known.expires, known.err
	}
	result := a.flight.DoChan(string(key[:]), func() (any, error) {
		if known, ok := a.lookup(key); ok && a.clock.Now().Before(known.expires) {
			a.asked("hit") // another call came back a moment ago
			return known, nil
		}
		doubts := a.doubted()
		value, err := ask(context.WithoutCancel(ctx))
		return a.learn(key, value, err, doubts), nil
	})
	select {
	case <-ctx.Done():
		var none V
		return none, time.Time{}, ctx.Err()
	case r := <-result:
		learnt := r.Val.(answer[V])
		return learnt.value, learnt.expires, learnt.err
	}
}

func (a *answers[V]) lookup(key question) (answer[V], bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	element, ok := a.byKey[key]
	if !ok {
		return answer[V]{}, false
	}
	a.recent.MoveToFront(element)
	return *element.Value.(*answer[V]), true
}

// doubt has RoR asked again about every value that matches.
func (a *answers[V]) doubt(match func(V) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubts++
	now := a.clock.Now()
	for element := a.recent.Front(); element != nil; element = element.Next() {
		known := element.Value.(*answer[V])
		if known.err == nil && match(known.value) {
			doubted := *known
			doubted.expires = now
			element.Value = &doubted
		}
	}
}

func (a *answers[V]) doubted() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.doubts
}

// learn remembers what RoR said and returns what to make of it. doubts is what doubted
// returned before RoR was asked.
func (a *answers[V]) learn(key question, value V, err error, doubts int) answer[V] {
	now := a.clock.Now()
	learnt := answer[V]{key: key, err: err, expires: now}
	switch {
	case err == nil:
		learnt.value, learnt.expires, learnt.confirmed = value, now.Add(a.ttl), now
		a.asked("asked")
	case isRefusal(err):
		learnt.expires = now.Add(a.errorTTL)
		a.asked("asked")
	default:
		old, ok := a.lookup(key)
		if !ok || old.err != nil || now.Sub(old.confirmed) > StaleFor {
			a.asked("asked")
			return learnt // trouble is not remembered
		}
		learnt = old
		learnt.expires = now.Add(staleRetry)
		a.asked("stale")
	}
	return a.remember(learnt, doubts, now)
}

// remember remembers an answer of now, and has it expire at once where there was a doubt
// meanwhile: it may be from before what that is about.
func (a *answers[V]) remember(learnt answer[V], doubts int, now time.Time) answer[V] {
	a.mu.Lock()
	defer a.mu.Unlock()
	if doubts != a.doubts {
		learnt.expires = now
	}
	if element, ok := a.byKey[learnt.key]; ok {
		element.Value = &learnt
		a.recent.MoveToFront(element)
		return learnt
	}
	a.byKey[learnt.key] = a.recent.PushFront(&learnt)
	if a.recent.Len() > a.max {
		oldest := a.recent.Remove(a.recent.Back()).(*answer[V])
		delete(a.byKey, oldest.key)
	}
	return learnt
}

// isRefusal tells whether RoR decided, rather than failed.
func isRefusal(err error) bool {
	return errors.Is(err, gitlabapi.ErrUnauthorized) || errors.Is(err, gitlabapi.ErrForbidden) ||
		errors.Is(err, gitlabapi.ErrNotFound) || errors.Is(err, gitlabapi.ErrRejected)
}

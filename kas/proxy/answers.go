package proxy

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
)

const (
	// maxAnswers bounds how many answers of one sort are remembered.
	maxAnswers = 10_000
	// maxAsking bounds how many questions of one sort RoR has at once, and askingWait how
	// long a question waits until it is one of them: strangers who show thousands of tokens
	// do not take RoR away from agents.
	maxAsking  = 16
	askingWait = 5 * time.Second
)

// errAsking says that RoR has been asked too much already.
var errAsking = fmt.Errorf("%w: too many requests wait for its answer", gitlabapi.ErrUnavailable)

// question is the hash of what was asked, so that no token is kept.
type question = [sha256.Size]byte

// answers remembers what RoR answered to one sort of question, and what it refused; not that
// it could not be asked. The least recently used answer goes first when there are too many.
type answers[V any] struct {
	ttl, errorTTL time.Duration
	max           int
	clock         clock.PassiveClock

	flight singleflight.Group
	asking chan struct{}

	mu     sync.Mutex
	byKey  map[question]*list.Element // of *answer[V]
	recent *list.List                 // most recently used first
}

type answer[V any] struct {
	key     question
	value   V
	err     error // RoR's refusal; value is void then
	expires time.Time
}

func newAnswers[V any](ttl, errorTTL time.Duration, c clock.PassiveClock) *answers[V] {
	return &answers[V]{
		ttl: ttl, errorTTL: errorTTL, max: maxAnswers, clock: c, asking: make(chan struct{}, maxAsking),
		byKey: make(map[question]*list.Element), recent: list.New(),
	}
}

// get returns the answer to a question, remembered (hit) or asked anew. Concurrent callers
// with the same question share one call of ask, which outlives a caller that gives up and
// must be bounded in time by itself.
func (a *answers[V]) get(ctx context.Context, key question, ask func(context.Context) (V, error)) (value V, hit bool, err error) {
	if known, ok := a.lookup(key); ok {
		return known.value, true, known.err
	}
	result := a.flight.DoChan(string(key[:]), func() (any, error) {
		if known, ok := a.lookup(key); ok { // another call came back a moment ago
			return known, nil
		}
		return a.ask(context.WithoutCancel(ctx), key, ask), nil
	})
	select {
	case <-ctx.Done():
		return value, false, fmt.Errorf("wait for RoR's answer: %w", ctx.Err())
	case r := <-result:
		learnt := r.Val.(answer[V])
		return learnt.value, false, learnt.err
	}
}

func (a *answers[V]) ask(ctx context.Context, key question, ask func(context.Context) (V, error)) answer[V] {
	patience := time.NewTimer(askingWait)
	defer patience.Stop()
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-patience.C:
		return answer[V]{err: errAsking}
	}
	learnt := answer[V]{key: key}
	learnt.value, learnt.err = ask(ctx)
	switch now := a.clock.Now(); {
	case learnt.err == nil:
		learnt.expires = now.Add(a.ttl)
	case isRefusal(learnt.err):
		learnt.expires = now.Add(a.errorTTL)
	default:
		return learnt
	}
	a.remember(learnt)
	return learnt
}

func (a *answers[V]) lookup(key question) (answer[V], bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	element, ok := a.byKey[key]
	if !ok {
		return answer[V]{}, false
	}
	known := element.Value.(answer[V])
	if !a.clock.Now().Before(known.expires) {
		a.recent.Remove(element)
		delete(a.byKey, key)
		return answer[V]{}, false
	}
	a.recent.MoveToFront(element)
	return known, true
}

func (a *answers[V]) remember(learnt answer[V]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if element, ok := a.byKey[learnt.key]; ok {
		a.recent.Remove(element)
	}
	a.byKey[learnt.key] = a.recent.PushFront(learnt)
	if a.recent.Len() > a.max {
		oldest := a.recent.Remove(a.recent.Back()).(answer[V])
		delete(a.byKey, oldest.key)
	}
}

// isRefusal tells whether RoR decided, rather than failed.
func isRefusal(err error) bool {
	return errors.Is(err, gitlabapi.ErrUnauthorized) || errors.Is(err, gitlabapi.ErrForbidden) ||
		errors.Is(err, gitlabapi.ErrNotFound) || errors.Is(err, gitlabapi.ErrRejected)
}

// Package answers remembers what RoR answered, so that it is not asked the same again and
// again.
//
// In go questions, by a hash that holds no secret, and how to ask them; out come the answers.
// A value is believed for Config.TTL, a refusal for Config.ErrorTTL. That RoR could not be
// asked is not remembered: then a value that it gave within Config.StaleFor is given again,
// and else the error.
//
// Concurrent callers with the same question share one call, which outlives a caller that
// gives up, in a goroutine of its own; it must be bounded in time by itself. How many answers
// are remembered is bounded, the least recently used goes first, and so is how many questions
// are asked at once, if Config says so.
package answers

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// StaleRetry is how long RoR is left alone about a question that it could not answer and that
// an old answer serves.
const StaleRetry = 15 * time.Second

// ErrAsking says that RoR has been asked too much already.
var ErrAsking = fmt.Errorf("%w: too many requests wait for its answer", gitlabapi.ErrUnavailable)

// Question is the hash of what was asked, so that no token is kept.
type Question = [sha256.Size]byte

// How a question was answered: by what is remembered, by RoR, or by what it once said,
// because it is away.
type How string

// The ways.
const (
	Hit   How = "hit"
	Asked How = "asked"
	Stale How = "stale"
)

// Config of Answers. Clock and Max are needed.
type Config struct {
	Clock clock.PassiveClock
	// TTL is how long a value is believed, ErrorTTL how long a refusal.
	TTL, ErrorTTL time.Duration
	// StaleFor is how long after RoR last confirmed it a value is still given while RoR
	// cannot be asked. Zero: it is not.
	StaleFor time.Duration
	// Max is how many answers are remembered.
	Max int
	// MaxAsking is how many questions RoR has at once; zero: any number. AskingWait is how
	// long a question waits until it is one of them.
	MaxAsking  int
	AskingWait time.Duration
	// Told, unless nil, is told how each question was answered; once for callers that share
	// a call.
	Told func(How)
}

// Answers remembers answers to one sort of question.
type Answers[V any] struct {
	cfg    Config
	flight singleflight.Group
	asking chan struct{} // nil: any number

	mu sync.Mutex
	// doubts counts the calls of Doubt: what was asked before one is no news after it.
	doubts int
	byKey  map[Question]*list.Element // of *answer[V]
	recent *list.List                 // most recently used first
}

// answer never changes.
type answer[V any] struct {
	key   Question
	value V
	err   error // RoR's refusal, or why there is no answer; value is void then
	// expires is when RoR is to be asked again.
	expires time.Time
	// confirmed is when RoR gave value.
	confirmed time.Time
}

// New returns Answers that remember nothing yet.
func New[V any](cfg Config) *Answers[V] {
	if cfg.Told == nil {
		cfg.Told = func(How) {}
	}
	a := &Answers[V]{cfg: cfg, byKey: make(map[Question]*list.Element), recent: list.New()}
	if cfg.MaxAsking > 0 {
		a.asking = make(chan struct{}, cfg.MaxAsking)
	}
	return a
}

// Get returns the answer to a question, and until when it is good: remembered (hit), or asked
// anew. Its error is that of ask, ErrAsking, or wraps ctx's.
func (a *Answers[V]) Get(ctx context.Context, key Question, ask func(context.Context) (V, error)) (value V, until time.Time, hit bool, err error) {
	if known := a.fresh(key); known != nil {
		return known.value, known.expires, true, known.err
	}
	result := a.flight.DoChan(string(key[:]), func() (any, error) {
		if known := a.fresh(key); known != nil { // another call came back a moment ago
			return known, nil
		}
		doubts := a.doubted()
		learnt := &answer[V]{key: key}
		if value, err := a.ask(context.WithoutCancel(ctx), ask); err != nil {
			learnt.err = err
		} else {
			learnt.value = value
		}
		return a.learn(learnt, doubts), nil
	})
	select {
	case <-ctx.Done():
		return value, until, false, fmt.Errorf("wait for RoR's answer: %w", ctx.Err())
	case r := <-result:
		learnt := r.Val.(*answer[V])
		return learnt.value, learnt.expires, false, learnt.err
	}
}

// ask asks RoR when it is time for it.
func (a *Answers[V]) ask(ctx context.Context, ask func(context.Context) (V, error)) (value V, err error) {
	if a.asking == nil {
		return ask(ctx)
	}
	if !a.begin() {
		return value, ErrAsking
	}
	defer func() { <-a.asking }()
	return ask(ctx)
}

// begin waits until RoR may be asked one question more; false: that took too long.
func (a *Answers[V]) begin() bool {
	select { // who need not wait does not, however short the wait may be
	case a.asking <- struct{}{}:
		return true
	default:
	}
	patience := time.NewTimer(a.cfg.AskingWait)
	defer patience.Stop()
	select {
	case a.asking <- struct{}{}:
		return true
	case <-patience.C:
		return false
	}
}

// fresh returns an answer that is still good; nil: there is none.
func (a *Answers[V]) fresh(key Question) *answer[V] {
	known := a.lookup(key)
	if known == nil || !a.cfg.Clock.Now().Before(known.expires) {
		return nil
	}
	a.cfg.Told(Hit)
	return known
}

func (a *Answers[V]) lookup(key Question) *answer[V] {
	a.mu.Lock()
	defer a.mu.Unlock()
	element, ok := a.byKey[key]
	if !ok {
		return nil
	}
	a.recent.MoveToFront(element)
	return element.Value.(*answer[V])
}

// Doubt has RoR asked again about every value that matches.
func (a *Answers[V]) Doubt(match func(V) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubts++
	now := a.cfg.Clock.Now()
	for element := a.recent.Front(); element != nil; element = element.Next() {
		known := element.Value.(*answer[V])
		if known.err == nil && match(known.value) {
			doubted := *known
			doubted.expires = now
			element.Value = &doubted
		}
	}
}

func (a *Answers[V]) doubted() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.doubts
}

// learn remembers what RoR said and returns what to make of it. doubts is what doubted
// returned before RoR was asked.
func (a *Answers[V]) learn(learnt *answer[V], doubts int) *answer[V] {
	now := a.cfg.Clock.Now()
	learnt.expires = now
	how := Asked
	switch {
	case learnt.err == nil:
		learnt.expires, learnt.confirmed = now.Add(a.cfg.TTL), now
	case gitlabapi.IsRefusal(learnt.err):
		learnt.expires = now.Add(a.cfg.ErrorTTL)
	default:
		old := a.lookup(learnt.key)
		if old == nil || old.err != nil || a.cfg.StaleFor == 0 || now.Sub(old.confirmed) > a.cfg.StaleFor {
			a.cfg.Told(Asked)
			return learnt // trouble is not remembered
		}
		again := *old
		again.expires = now.Add(StaleRetry)
		learnt, how = &again, Stale
	}
	a.cfg.Told(how)
	a.remember(learnt, doubts, now)
	return learnt
}

// remember remembers an answer of now, and has it expire at once where there was a doubt
// meanwhile: it may be from before what that is about.
func (a *Answers[V]) remember(learnt *answer[V], doubts int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if doubts != a.doubts {
		learnt.expires = now
	}
	if element, ok := a.byKey[learnt.key]; ok {
		element.Value = learnt
		a.recent.MoveToFront(element)
		return
	}
	a.byKey[learnt.key] = a.recent.PushFront(learnt)
	if a.recent.Len() > a.cfg.Max {
		oldest := a.recent.Remove(a.recent.Back()).(*answer[V])
		delete(a.byKey, oldest.key)
	}
}

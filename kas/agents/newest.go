package agents

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// firstRetry and lastRetry bound the wait before something that failed is tried again.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// newest is a mailbox for one value, and what acts on it: with each new value, one call
// after another, and again with the same one, after a growing wait, for as long as act
// asks for it. A newer value takes the place of one that was not yet acted on.
type newest[T any] struct {
	clock clock.Clock
	act   func(context.Context, T) (again bool)

	mu    sync.Mutex
	value T
	full  bool // value was set at least once
	// pending: value is to be acted on.
	pending bool
	// start starts a goroutine. Nil: there is to be none.
	start  func(func(context.Context))
	acting bool
	news   chan struct{} // has one while pending is set and acting is, too
}

func newNewest[T any](c clock.Clock, act func(context.Context, T) (again bool)) *newest[T] {
	return &newest[T]{clock: c, act: act, news: make(chan struct{}, 1)}
}

// open lets it act, in goroutines that start starts.
func (n *newest[T]) open(start func(func(context.Context))) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.start = start
	if n.pending {
		n.wake()
	}
}

// close has it start nothing any more. What it has started ends with its context.
func (n *newest[T]) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.start = nil
}

func (n *newest[T]) put(value T) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.value, n.full = value, true
	n.wake()
}

// again has the value, if there is one, acted on once more.
func (n *newest[T]) again() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full {
		n.wake()
	}
}

// wake has the value acted on. The lock is held.
func (n *newest[T]) wake() {
	n.pending = true
	switch {
	case n.acting:
		select {
		case n.news <- struct{}{}:
		default:
		}
	case n.start != nil:
		n.acting = true
		n.start(n.run)
	}
}

// next takes the value to act on, or says that there is none, and this goroutine ends.
func (n *newest[T]) next(ctx context.Context) (value T, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.news:
	default:
	}
	if !n.pending || ctx.Err() != nil {
		n.acting = false
		return value, false
	}
	n.pending = false
	return n.value, true
}

// run acts until there is nothing to do.
func (n *newest[T]) run(ctx context.Context) {
	for wait := firstRetry; ; {
		value, ok := n.next(ctx)
		if !ok {
			return
		}
		if !n.act(ctx, value) {
			wait = firstRetry
			continue
		}
		retry := n.clock.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-n.news:
			wait = firstRetry
		case <-retry.C():
			wait = min(2*wait, lastRetry)
			n.again()
		}
		retry.Stop()
	}
}

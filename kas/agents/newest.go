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

// newest is a mailbox for one value: a newer one takes the place of one not yet read.
type newest[T any] struct {
	mu    sync.Mutex
	value T
	full  bool // value was set at least once
	news  chan struct{}
}

func newNewest[T any]() *newest[T] {
	return &newest[T]{news: make(chan struct{}, 1)}
}

func (n *newest[T]) put(value T) {
	n.mu.Lock()
	n.value, n.full = value, true
	n.mu.Unlock()
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

func (n *newest[T]) wake() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// each calls act with each new value until ctx ends, and again with the same one, after a
// growing wait, for as long as act asks for it.
func (n *newest[T]) each(ctx context.Context, c clock.Clock, act func(context.Context, T) (again bool)) error {
	var retry <-chan time.Time
	wait := firstRetry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.news:
			wait = firstRetry
		case <-retry:
			wait = min(2*wait, lastRetry)
		}
		retry = nil
		n.mu.Lock()
		value := n.value
		n.mu.Unlock()
		if act(ctx, value) {
			retry = c.After(wait)
		}
	}
}

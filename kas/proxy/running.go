package proxy

import (
	"context"
	"errors"
	"sync"
)

// errDraining ends requests when kas stops.
var errDraining = errors.New("kas is shutting down")

// running are the requests that are being answered.
type running struct {
	mu sync.Mutex
	// draining: no long one is begun any more. over: none is.
	draining, over bool
	open           sync.WaitGroup
	next           int
	all            map[int]one
}

// one request that was passed on. A long one would not end by itself in any time.
type one struct {
	long   bool
	cancel context.CancelCauseFunc
}

func newRunning() *running { return &running{all: make(map[int]one)} }

// begin counts a request until end is called; not ok: it may not begin any more.
func (r *running) begin() (end func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, false
	}
	r.open.Add(1)
	return r.open.Done, true
}

// enter has a request cancelled when its time has come, until leave is called; not ok: it
// has come.
func (r *running) enter(cancel context.CancelCauseFunc, long bool) (leave func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || (long && r.draining) {
		return nil, false
	}
	id := r.next
	r.next++
	r.all[id] = one{long, cancel}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.all, id)
	}, true
}

// endLong ends watches and upgraded connections.
func (r *running) endLong() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
	for _, o := range r.all {
		if o.long {
			o.cancel(errDraining)
		}
	}
}

// endAll ends all requests.
func (r *running) endAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining, r.over = true, true
	for _, o := range r.all {
		o.cancel(errDraining)
	}
}

// wait waits until all have ended; endAll was called.
func (r *running) wait() { r.open.Wait() }

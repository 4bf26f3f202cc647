package tunnel

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// state of a stream.
type state int

const (
	none state = iota
	opening
	idle
	busy
	states
)

// pool counts streams and knows how many are missing.
type pool struct {
	maxIdle, maxStreams int
	// gauges by state; nil: not shown.
	gauges [states]prometheus.Gauge
	// changed has a token when streams may be missing.
	changed chan struct{}
	// failed has the first failure that nobody has dealt with.
	failed chan error

	mu     sync.Mutex
	wanted int
	count  [states]int
}

func newPool(maxIdle, maxStreams int, metrics *Metrics) *pool {
	p := &pool{
		maxIdle: maxIdle, maxStreams: maxStreams, wanted: 1,
		changed: make(chan struct{}, 1), failed: make(chan error, 1),
	}
	p.gauges[idle] = metrics.streams.WithLabelValues("idle")
	p.gauges[busy] = metrics.streams.WithLabelValues("busy")
	return p
}

// missing must be called with the lock.
func (p *pool) missing() int {
	open := p.count[opening] + p.count[idle] + p.count[busy]
	return max(0, min(p.wanted-p.count[opening]-p.count[idle], p.maxStreams-open))
}

// take returns how many streams are missing. They count as opening from now on. While
// there is a failure to deal with, none is.
func (p *pool) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failed) > 0 {
		return 0
	}
	n := p.missing()
	p.count[opening] += n
	return n
}

// want is told how many idle streams kas wants. With none it could not reach the agent,
// not even to ask for more.
func (p *pool) want(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = max(1, min(n, p.maxIdle))
	p.notify()
}

// move is told that a stream is in another state.
func (p *pool) move(from, to state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave(from)
	p.count[to]++
	p.show(to)
	p.notify()
}

// end is told that a stream in this state has ended, and why if it failed. One that fails
// in the middle of an RPC while others are idle says nothing about those that are opened
// next: kas gave it up because of its RPC.
func (p *pool) end(was state, failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave(was)
	if failure != nil && (was != busy || p.count[idle] == 0) {
		if was == idle || p.count[idle]+p.count[busy] == 0 {
			p.wanted = 1
		}
		select {
		case p.failed <- failure:
		default: // one is enough for all to wait
		}
	}
	p.notify()
}

// forgive forgets a failure that has been waited for.
func (p *pool) forgive() {
	select {
	case <-p.failed:
	default:
	}
}

func (p *pool) leave(from state) {
	p.count[from]--
	p.show(from)
}

func (p *pool) show(s state) {
	if p.gauges[s] != nil {
		p.gauges[s].Set(float64(p.count[s]))
	}
}

func (p *pool) notify() {
	if p.missing() == 0 {
		return
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

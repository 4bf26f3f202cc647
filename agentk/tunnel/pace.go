package tunnel

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

const (
	// largeAnswer is what an RPC may send within largeFor before it counts as large, in bytes.
	largeAnswer = 256 << 10
	largeFor    = time.Second
	// askedFor is how long after a small RPC others may be expected.
	askedFor = time.Second
)

// pacer holds large answers back while small RPCs come, so that these find a processor
// and a connection that are not busy with what nobody waits for by the millisecond. All
// large answers share rate; without small RPCs nothing is held back.
type pacer struct {
	clock clock.Clock
	// limit gives the parts of large answers their turns; nil: nothing is held back.
	limit *rate.Limiter
	// small is when an RPC last ended that was not large, in nanoseconds of Unix time.
	small atomic.Int64
	// held counts the seconds of large answers that waited.
	held prometheus.Counter
}

// newPacer returns one that lets so many bytes a second pass; negative: all.
func newPacer(clk clock.Clock, bytes int, held prometheus.Counter) *pacer {
	p := &pacer{clock: clk, held: held}
	if bytes > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytes), largeAnswer)
	}
	return p
}

// volume is what an RPC has sent. Its owner guards it.
type volume struct {
	// sent so many bytes since then.
	sent  int
	since time.Time
	// large: it was, if it isn't now.
	large bool
}

// wait waits until a part of an RPC may go out, or ctx ends, which is not for it to say.
func (p *pacer) wait(ctx context.Context, v *volume, bytes int) {
	if p.limit == nil {
		return
	}
	if v.sent == 0 {
		v.since = p.clock.Now()
	}
	v.sent += bytes
	if v.sent <= largeAnswer {
		return
	}
	now := p.clock.Now()
	if now.Sub(v.since) > largeFor { // a watch, say, that sends a little all day
		v.sent, v.since = bytes, now
		return
	}
	v.large = true
	if now.UnixNano()-p.small.Load() > int64(askedFor) {
		return
	}
	turn := p.limit.ReserveN(now, bytes)
	delay := turn.DelayFrom(now)
	if delay == 0 {
		return
	}
	defer func() { p.held.Add(p.clock.Since(now).Seconds()) }()
	timer := p.clock.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done():
		turn.CancelAt(p.clock.Now())
	}
}

// ended is told of an RPC that has ended.
func (p *pacer) ended(v *volume) {
	if p.limit != nil && !v.large {
		p.small.Store(p.clock.Now().UnixNano())
	}
}

package tunnel

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// broken is an error of kas's: the stream ends.
func broken(format string, args ...any) error {
	return status.Errorf(codes.Internal, "kas broke the rules of the tunnel: "+format, args...)
}

// take does what a frame says. It returns the RPC that begins with it, if one does, which
// its caller serves. The frame is the caller's again.
func (t *stream) take(ctx context.Context, m *agentrpc.TunnelRequest) (begun *call, err error) {
	if m.IdleStreams != nil {
		t.server.pool.want(int(m.GetIdleStreams()))
	}
	number := m.GetRpc()
	if number == 0 {
		if m.GetStart() != nil || len(m.GetMessages()) > 0 || m.GetHalfClose() || m.GetCancel() {
			return nil, broken("a frame about no RPC has something for one")
		}
		return nil, nil
	}
	c := t.running(number)
	switch {
	case m.GetStart() != nil:
		if begun, err = t.begin(ctx, number, m.GetStart()); err != nil {
			return nil, err
		}
		c = begun
	case number > t.last:
		return nil, broken("RPC %d goes on that has not begun", number)
	case c == nil:
		return nil, nil // it has ended, which kas may not have known
	}
	if err := t.takeMessages(c, m); err != nil {
		if begun != nil {
			t.abandon(begun)
		}
		return nil, err
	}
	if m.GetCancel() {
		c.cancel()
	}
	return begun, nil
}

// takeMessages hands on the request messages of a frame, and their end.
func (t *stream) takeMessages(c *call, m *agentrpc.TunnelRequest) error {
	if c.halfClosed && (len(m.GetMessages()) > 0 || m.GetHalfClose()) {
		return broken("RPC %d goes on after its half-close", c.number)
	}
	for _, part := range m.GetMessages() {
		message, whole, err := t.joiner.Join(part)
		if err != nil {
			return broken("RPC %d: %v", c.number, err)
		}
		if whole {
			t.server.cfg.Metrics.fromKas.Add(float64(len(message)))
			c.inbox.put(message, c.bounds.Err() != nil)
		}
	}
	if !m.GetHalfClose() {
		return nil
	}
	if t.joiner.Open() {
		return broken("RPC %d: half-close in the middle of a message", c.number)
	}
	c.halfClosed = true
	c.inbox.close()
	return nil
}

// begin begins an RPC.
func (t *stream) begin(ctx context.Context, number uint64, start *agentrpc.TunnelStart) (*call, error) {
	if number <= t.last {
		return nil, broken("RPC %d begins after RPC %d has", number, t.last)
	}
	var timeout time.Duration // zero: none
	if start.GetTimeout() != nil {
		if err := start.GetTimeout().CheckValid(); err != nil {
			return nil, broken("RPC %d: timeout: %v", number, err)
		}
		timeout = max(start.GetTimeout().AsDuration(), 1)
	}
	if other := t.busyWith(); other != nil {
		return nil, broken("RPC %d begins before RPC %d has ended", number, other.number)
	}
	c := newCall(ctx, t, number, start.GetMethod(), timeout, tunnelwire.ToMD(start.GetMetadata()))
	t.become(busy, c)
	t.last = number
	t.joiner = tunnelwire.Joiner{}
	return c, nil
}

// abandon forgets an RPC that nobody has begun to serve.
func (t *stream) abandon(c *call) {
	c.cancel()
	c.endSpan(codes.Canceled)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = nil
}

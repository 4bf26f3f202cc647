package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

const (
	// maxFrame is the largest TunnelRequest, in bytes: a part of a message, and metadata.
	maxFrame = 1 << 20
	// young is how long a stream lives at least that ends as it should: a kas that ends
	// streams as soon as they are opened is not asked again at once.
	young = time.Second
	// probeInterval is how often a stream that is not being received from is asked
	// whether it has ended.
	probeInterval = 5 * time.Second
)

var (
	errYoung = errors.New("kas ended the stream as soon as it was opened")
	errBusy  = errors.New("kas ended the stream in the middle of an RPC")
)

// stream is one stream of the tunnel.
type stream struct {
	server *Server
	client grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest]
	// cancel ends the stream.
	cancel context.CancelFunc
	// opened is when the stream was.
	opened time.Time
	// handOver has another goroutine receive.
	handOver func()

	// What follows belongs to whichever goroutine receives.

	request agentrpc.TunnelRequest
	joiner  tunnelwire.Joiner
	// last is the number of the newest RPC.
	last uint64

	// sending is held while something is sent.
	sending sync.Mutex
	out     frame

	mu    sync.Mutex
	state state
	// current RPC, which has not ended; nil: none. It may outlive the stream.
	current *call
}

// open opens a stream and works on it, beside those that receive starts, until it ends.
func (s *Server) open(ctx context.Context) {
	defer s.goroutines.Done()
	ctx, cancel := context.WithCancel(ctx)
	t := &stream{server: s, cancel: cancel, state: opening}
	t.handOver = func() {
		s.goroutines.Add(1)
		go func() {
			defer s.goroutines.Done()
			t.receive(ctx)
		}()
	}
	if err := t.hello(ctx); err != nil {
		t.end(ctx, err)
		return
	}
	t.opened = s.cfg.Clock.Now()
	t.become(idle, nil)
	t.receive(ctx)
}

// hello opens the stream.
func (t *stream) hello(ctx context.Context) (err error) {
	// First, because it may take a while, for which kas would not wait.
	hello := &agentrpc.TunnelHello{AgentMeta: t.server.cfg.Meta(ctx), Services: t.server.services}
	t.client, err = t.server.cfg.Client.Connect(ctx, grpc.MaxCallRecvMsgSize(maxFrame), grpc.ForceCodecV2(tunnelwire.Codec()))
	if err != nil {
		return fmt.Errorf("tunnel stream: %w", err)
	}
	err = t.client.Send(&agentrpc.TunnelResponse{Hello: hello})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes with what is received
		return fmt.Errorf("tunnel stream: %w", err)
	}
	return nil
}

// receive receives until the stream ends, or another goroutine receives. An RPC that begins
// it serves itself.
func (t *stream) receive(ctx context.Context) {
	for {
		t.awaitRoom(ctx)
		if err := t.client.RecvMsg(&t.request); err != nil {
			t.end(ctx, err)
			return
		}
		begun, err := t.take(ctx, &t.request)
		t.request.Reset() // an idle stream keeps nothing
		if err != nil {
			t.end(ctx, err)
			return
		}
		if begun == nil {
			continue
		}
		if !begun.serve() {
			return
		}
	}
}

// awaitRoom waits until the current RPC's handler has read most of what came for it, or
// no longer will.
func (t *stream) awaitRoom(ctx context.Context) {
	c := t.busyWith()
	if c == nil || c.inbox.full() == nil {
		return
	}
	probe := t.server.cfg.Clock.NewTimer(probeInterval)
	defer probe.Stop()
	for {
		changed := c.inbox.full()
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-c.bounds.Done():
			return // what comes for it is dropped from now on
		case <-ctx.Done():
			return
		case <-probe.C():
			if !t.alive(c) {
				c.cancel() // what is left to be received is dropped: the stream's end is behind it
				return
			}
			probe.Reset(probeInterval)
		}
	}
}

// alive says whether the stream goes on, which only sending can tell while nothing is
// received. A handler that is sending will be told itself.
func (t *stream) alive(c *call) bool {
	if !t.sending.TryLock() {
		return true
	}
	defer t.sending.Unlock()
	if c.finished {
		return true
	}
	return t.client.Send(&agentrpc.TunnelResponse{Rpc: c.number}) == nil
}

// busyWith returns the current RPC; nil: there is none.
func (t *stream) busyWith() *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

// running returns the RPC of this number; nil: it is not the current one.
func (t *stream) running(number uint64) *call {
	if c := t.busyWith(); c != nil && c.number == number {
		return c
	}
	return nil
}

// become has the stream in another state, with this RPC as the current one, unless it
// has ended.
func (t *stream) become(to state, current *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = current
	if t.state == none {
		return
	}
	t.server.pool.move(t.state, to)
	t.state = to
}

// end is called once, when nothing more can be received. The context of a running RPC
// ends, too.
func (t *stream) end(ctx context.Context, err error) {
	stopped := ctx.Err() != nil
	t.cancel()
	t.mu.Lock()
	was := t.state
	t.state = none
	t.mu.Unlock()
	failure := t.failure(was, err)
	if stopped {
		failure = nil
	}
	if failure != nil {
		t.server.cfg.Ended(failure)
		t.server.cfg.Log.Debug("Tunnel stream failed", zap.Error(failure))
	}
	t.server.pool.end(was, failure)
}

// failure is why a stream failed; nil: kas no longer wanted it, and may do so.
func (t *stream) failure(was state, err error) error {
	switch {
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("tunnel stream: %w", err)
	case was == busy:
		return errBusy
	case t.server.cfg.Clock.Since(t.opened) < young:
		return errYoung
	default:
		return nil
	}
}

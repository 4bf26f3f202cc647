package tunnel

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// Why a stream ends by kas's decision.
var (
	errGone         = status.Error(codes.Unavailable, "the stream is gone")
	errUnread       = status.Error(codes.DeadlineExceeded, "the agent does not read")
	errUnresponsive = status.Error(codes.DeadlineExceeded, "the agent did not end an RPC that was cancelled")
)

// sendGrace is how long a caller whose context has ended may be held up in sending.
const sendGrace = 100 * time.Millisecond

// stream is one open Connect.
type stream struct {
	server  *Server
	rpc     grpc.BidiStreamingServer[agentrpc.TunnelResponse, agentrpc.TunnelRequest]
	peer    peer.Peer
	process *process

	// over is closed when the stream is to end; why and parting stand fast then. The
	// pool's lock guards these.
	over        chan struct{}
	why         error
	parting     uint32 // idle streams that are wanted from now on; zero: not said
	idle, ended bool
	left        bool  // Connect has returned, or is about to
	retiring    error // why it ends when it is idle
	index       int   // in process.streams
	tell        int   // idle streams that are wanted, for the next RPC to say; zero: not said

	// sending holds a token while something is sent.
	sending chan struct{}
	// last is the number of the RPC begun last: it belongs to whoever the stream is lent to.
	last uint64
}

// Outcomes of sending the frame that starts an RPC.
var (
	errStaleStream = errors.New("the stream had ended")
	errNotBegun    = errors.New("the caller left before the RPC began")
)

// start numbers an RPC and sends its first frame. errStaleStream: the agent never sees it;
// the caller tries another stream. errNotBegun: the stream was given back.
func (st *stream) start(c *call, frame *agentrpc.TunnelRequest) error {
	st.sending <- struct{}{} // nobody else sends on a stream that was just lent, but cancel
	if c.closed {
		<-st.sending
		st.server.pool.giveBack(st)
		return errNotBegun
	}
	st.last++
	c.in.rpc, frame.Rpc = st.last, st.last
	c.started = true
	err := st.rpc.Send(frame)
	<-st.sending
	if err != nil {
		st.server.pool.endNow(st, errGone)
		return errStaleStream
	}
	return nil
}

// send sends a frame that is not an RPC's first. io.EOF: the RPC or the stream has ended. It
// does not return before the agent lets it, or the stream ends.
func (st *stream) send(c *call, frame *agentrpc.TunnelRequest) error {
	select {
	case st.sending <- struct{}{}:
	case <-c.done:
		return io.EOF
	}
	defer func() { <-st.sending }()
	if c.closed {
		return io.EOF
	}
	frame.Rpc = c.in.rpc
	if err := st.rpc.Send(frame); err != nil {
		return io.EOF // receiving says why
	}
	return nil
}

// sendAll sends frames, as send does.
func (st *stream) sendAll(c *call, frames []*agentrpc.TunnelRequest) error {
	for _, frame := range frames {
		if err := st.send(c, frame); err != nil {
			return err
		}
	}
	return nil
}

// receive hands a call what the agent answers, until it ends.
func (st *stream) receive(c *call) {
	for {
		frame, err := st.rpc.Recv()
		if err != nil {
			c.finish(result{err: st.broken(err)})
			return
		}
		got, err := c.in.take(frame)
		if err != nil {
			st.server.pool.endNow(st, status.Errorf(codes.InvalidArgument, "RPC %d: %v", c.in.rpc, err))
			c.finish(result{err: status.Errorf(codes.Unavailable, "agent %d broke the tunnel's rules: %v", st.process.agent.id, err)})
			return
		}
		if got.opens {
			c.header = got.header
			if c.headers != nil {
				close(c.headers)
			}
		}
		st.server.metrics.received(got.messages)
		if got.trailers != nil {
			st.settle(c, got)
			return
		}
		c.deliver(got.messages, st.over)
	}
}

// broken ends a stream from which nothing can be received, and returns what that means for
// its RPC.
func (st *stream) broken(err error) error {
	why, ending := grpctool.Words(err), errGone
	switch {
	case errors.Is(err, io.EOF):
		why, ending = "it has ended the stream", nil
	case status.Code(err) == codes.Canceled: // which gRPC calls a connection that has broken
		why = "its connection was lost"
	}
	st.server.pool.endNow(st, ending)
	if st.why != nil && !errors.Is(st.why, errGone) { // kas had ended it
		why = grpctool.Words(st.why)
	}
	return status.Errorf(codes.Unavailable, "agent %d went away in the middle of the call: %s", st.process.agent.id, why)
}

// settle ends a call whose trailers have come, and gives the stream back.
func (st *stream) settle(c *call, last arrival) {
	final := finalOf(last)
	select {
	case st.sending <- struct{}{}:
		st.close(c)
		st.server.pool.giveBack(st) // first, for who asks again at once
		c.finish(final)
		return
	default:
	}
	// Somebody is sending what the agent no longer wants. It will be read and dropped.
	c.finish(final)
	timer := st.server.cfg.Clock.NewTimer(st.server.cfg.CancelGrace)
	defer timer.Stop()
	select {
	case st.sending <- struct{}{}:
		st.close(c)
		st.server.pool.giveBack(st)
	case <-timer.C():
		st.server.pool.endNow(st, errUnread)
	case <-st.over:
	}
}

// close lets nothing more of a call be sent. The token is held, and given back.
func (st *stream) close(c *call) {
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	<-st.sending
}

// cancel tells the agent that nobody waits for an RPC any more. The caller need not wait for
// cancel: it may take until the agent reads, or the stream ends.
func (st *stream) cancel(c *call) {
	if !c.leave() || !st.server.hold(st) {
		return
	}
	defer st.server.open.Done()
	if !st.interrupt(c) {
		return
	}
	defer func() { <-st.sending }()
	if c.closed {
		return
	}
	c.closed = true
	if !c.started {
		return
	}
	c.timer = st.server.cfg.Clock.AfterFunc(st.server.cfg.CancelGrace, func() { st.server.pool.endNow(st, errUnresponsive) })
	_ = st.rpc.Send(&agentrpc.TunnelRequest{Rpc: c.in.rpc, Cancel: true}) // receiving says what is wrong
}

// interrupt takes the token from who sends. Whoever does not give it up is held up by an
// agent that does not read: the stream ends, so that a caller can leave.
func (st *stream) interrupt(c *call) bool {
	select {
	case st.sending <- struct{}{}:
		return true
	default:
	}
	timer := st.server.cfg.Clock.NewTimer(sendGrace)
	defer timer.Stop()
	select {
	case st.sending <- struct{}{}:
		return true
	case <-timer.C():
		st.server.pool.endNow(st, errUnread)
	case <-c.done:
	case <-st.over:
	}
	return false
}

// hold counts a goroutine that uses a stream, unless its Connect has returned.
func (s *Server) hold(st *stream) bool {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if st.left {
		return false
	}
	s.open.Add(1)
	return true
}

package tunnel

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// call is one RPC on a stream.
type call struct {
	in reception // of the goroutine that receives

	// header is there when headers is closed, or done is. headers is nil for a unary RPC.
	header  metadata.MD
	headers chan struct{}
	// frames hands messages to a streaming caller, those of a frame at a time; nil for a
	// unary RPC, whose message is kept.
	frames chan [][]byte
	kept   [][]byte
	// gone is closed when a streaming caller no longer wants anything.
	gone chan struct{}
	went atomic.Bool
	// final is there when done is closed.
	done  chan struct{}
	final result

	// The stream's token guards these. started: the first frame was sent. closed: nothing
	// more is to be. timer ends the stream of a call that was cancelled.
	started, closed bool
	timer           clock.Timer
}

// result is how an RPC ended.
type result struct {
	// err is a gRPC status; nil: well.
	err error
	// messages that came with the end.
	messages [][]byte
	trailer  metadata.MD
}

func finalOf(last arrival) result {
	return result{err: tunnelwire.ToError(last.trailers), messages: last.messages, trailer: tunnelwire.ToMD(last.trailers.GetMetadata())}
}

func newUnary() *call {
	return &call{done: make(chan struct{})}
}

func newStreaming() *call {
	return &call{gone: make(chan struct{}), done: make(chan struct{}), headers: make(chan struct{}), frames: make(chan [][]byte)}
}

// deliver hands over messages, and waits until they are taken, nobody wants them, or the
// stream is over.
func (c *call) deliver(messages [][]byte, over <-chan struct{}) {
	if len(messages) == 0 {
		return
	}
	if c.frames == nil {
		c.keep(messages)
		return
	}
	select {
	case c.frames <- messages:
	case <-c.gone:
	case <-over:
	}
}

// keep keeps the messages of a unary RPC: two are as wrong as any number of them.
func (c *call) keep(messages [][]byte) {
	if len(c.kept) < 2 {
		c.kept = append(c.kept, messages[:min(len(messages), 2)]...)
	}
}

// finish ends the call. Only the goroutine that receives calls it, once.
func (c *call) finish(final result) {
	if c.frames == nil {
		c.keep(final.messages)
		final.messages = c.kept
	}
	c.final = final
	close(c.done)
}

// leave notes that the caller wants nothing more, and says whether that is new.
func (c *call) leave() bool {
	if c.went.Swap(true) {
		return false
	}
	if c.gone != nil {
		close(c.gone)
	}
	return true
}

// starting is the frame that starts an RPC, and what is in it: one allocation.
type starting struct {
	frame   agentrpc.TunnelRequest
	start   agentrpc.TunnelStart
	timeout durationpb.Duration
	idle    uint32
	message agentrpc.TunnelMessage
	parts   [1]*agentrpc.TunnelMessage
}

// newStart returns the frame that starts an RPC on a stream.
func newStart(ctx context.Context, st *stream, method string) *starting {
	s := &starting{}
	s.frame.Start, s.start.Method = &s.start, method
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		s.start.Metadata = tunnelwire.FromMD(md)
	}
	if deadline, ok := ctx.Deadline(); ok {
		left := max(0, time.Until(deadline))
		s.timeout.Seconds, s.timeout.Nanos = int64(left/time.Second), int32(left%time.Second)
		s.start.Timeout = &s.timeout
	}
	if st.tell != 0 {
		s.idle = uint32(st.tell)
		s.frame.IdleStreams, st.tell = &s.idle, 0
	}
	return s
}

// add puts the first part of a message into the frame, and returns the frames for the rest.
// last says that it is the last message.
func (s *starting) add(message []byte, last bool) []*agentrpc.TunnelRequest {
	s.parts[0] = &s.message
	s.frame.Messages = s.parts[:]
	if len(message) <= tunnelwire.FrameSize {
		s.message.Data = message
		s.frame.HalfClose = last
		return nil
	}
	s.message.Data, s.message.More = message[:tunnelwire.FrameSize], true
	return framesOf(message[tunnelwire.FrameSize:], last)
}

// framesOf returns the frames of a message, or of the rest of one. Its length was checked.
func framesOf(message []byte, last bool) []*agentrpc.TunnelRequest {
	parts, _ := tunnelwire.Cut(message)
	frames := make([]*agentrpc.TunnelRequest, len(parts))
	for i, part := range parts {
		frames[i] = &agentrpc.TunnelRequest{Messages: []*agentrpc.TunnelMessage{part}}
	}
	if len(frames) > 0 {
		frames[len(frames)-1].HalfClose = last
	}
	return frames
}

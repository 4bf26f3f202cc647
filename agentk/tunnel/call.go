package tunnel

import (
	"context"
	"errors"
	"io"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// call is one RPC. To the handler of a streaming RPC it is the grpc.ServerStream.
type call struct {
	stream *stream
	number uint64
	name   string
	method *method
	// bounds end with the deadline, a cancel, or the stream. ctx is the handler's, and of the
	// same end: grpc.ServerStream hands it out.
	bounds, ctx context.Context
	cancel      context.CancelFunc
	heed        heed
	// span is nil where the RPC is not traced.
	span  trace.Span
	inbox inbox
	// halfClosed belongs to who receives.
	halfClosed bool

	// What follows is guarded by the stream's sending.

	header, trailer metadata.MD
	// headerSent: the time for header is over.
	headerSent bool
	volume     volume
	// finished: the handler has returned.
	finished bool
}

var _ grpc.ServerStream = (*call)(nil)

// newCall returns an RPC that nobody has begun to serve. Zero timeout: none.
func newCall(ctx context.Context, t *stream, number uint64, name string, timeout time.Duration, md metadata.MD) *call {
	c := &call{stream: t, number: number, name: name, method: t.server.methods[name]}
	if c.method == nil {
		c.method = t.server.unknown
	}
	if timeout > 0 {
		c.bounds, c.cancel = context.WithTimeout(ctx, timeout)
	} else {
		c.bounds, c.cancel = context.WithCancel(ctx)
	}
	ctx = handlerContext{Context: c.bounds, call: c}
	if md == nil {
		md = metadata.MD{}
	}
	if t.server.cfg.Tracing.Enabled() {
		ctx = c.trace(ctx, md)
	}
	c.ctx = grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(ctx, md), (*transportStream)(c))
	return c
}

// errLost ends an RPC whose handler ends its goroutine.
var errLost = status.Error(codes.Internal, "the handler did not return")

// serve answers the RPC. It says whether its caller is to go on receiving: else another
// goroutine does.
func (c *call) serve() (receive bool) {
	if !c.halfClosed || c.method.stream != nil {
		c.watch()
	}
	var reply any
	err := errLost
	returned := false
	defer func() {
		if !returned { // nor will this goroutine
			c.watch()
		}
		c.finish(reply, err)
		receive = c.settle()
	}()
	reply, err = c.handle()
	returned = true
	return false // until it is settled
}

// handle calls the handler. It returns what a unary one replies, or nil.
func (c *call) handle() (reply any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.stream.server.cfg.Log.Error("Handler of an RPC from kas panicked",
				zap.String("method", c.name), zap.Any("panic", p), zap.Stack("stack"))
			reply, err = nil, status.Error(codes.Internal, "agentk failed to answer: a fault in agentk, its log has more")
		}
	}()
	switch m := c.method; {
	case m.unary != nil:
		reply, err = m.unary(m.service, c.ctx, c.decode, nil)
		if reply == nil && err == nil {
			err = status.Error(codes.Internal, "the handler replied nothing")
		}
		return reply, err
	case m.stream != nil:
		return nil, m.stream(m.service, c)
	default:
		return nil, status.Errorf(codes.Unimplemented, "this agentk has no method %q", c.name)
	}
}

// decode reads the one request message of a unary RPC.
func (c *call) decode(message any) error {
	err := c.RecvMsg(message)
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Internal, "there is no request message")
	}
	return err
}

// Context implements grpc.ServerStream.
func (c *call) Context() context.Context { return c.ctx }

// RecvMsg implements grpc.ServerStream.
func (c *call) RecvMsg(message any) error {
	data, err := c.inbox.get(c.bounds)
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case err != nil:
		return status.FromContextError(err).Err()
	}
	if err := grpctool.Unmarshal(data, message); err != nil {
		return status.Errorf(codes.Internal, "request of %s: %v", c.name, err)
	}
	return nil
}

// SetHeader implements grpc.ServerStream.
func (c *call) SetHeader(md metadata.MD) error {
	c.stream.sending.Lock()
	defer c.stream.sending.Unlock()
	return c.setHeader(md)
}

func (c *call) setHeader(md metadata.MD) error {
	if c.headerSent || c.finished {
		return status.Error(codes.Internal, "headers were set after they had been sent")
	}
	c.header = metadata.Join(c.header, md)
	return nil
}

// SendHeader implements grpc.ServerStream.
func (c *call) SendHeader(md metadata.MD) error {
	c.stream.sending.Lock()
	defer c.stream.sending.Unlock()
	if err := c.setHeader(md); err != nil {
		return err
	}
	return c.sendHeader()
}

// SetTrailer implements grpc.ServerStream.
func (c *call) SetTrailer(md metadata.MD) {
	c.stream.sending.Lock()
	defer c.stream.sending.Unlock()
	if !c.finished {
		c.trailer = metadata.Join(c.trailer, md)
	}
}

// transportStream is the RPC as grpc.SetHeader and the like find it in its context.
type transportStream call

var _ grpc.ServerTransportStream = (*transportStream)(nil)

// Method implements grpc.ServerTransportStream.
func (s *transportStream) Method() string { return s.name }

// SetHeader implements grpc.ServerTransportStream.
func (s *transportStream) SetHeader(md metadata.MD) error { return (*call)(s).SetHeader(md) }

// SendHeader implements grpc.ServerTransportStream.
func (s *transportStream) SendHeader(md metadata.MD) error { return (*call)(s).SendHeader(md) }

// SetTrailer implements grpc.ServerTransportStream.
func (s *transportStream) SetTrailer(md metadata.MD) error {
	(*call)(s).SetTrailer(md)
	return nil
}

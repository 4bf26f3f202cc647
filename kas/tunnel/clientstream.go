package tunnel

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// clientStream is a streaming RPC. As gRPC has it: one goroutine may send while another
// receives, and the caller reads to the end or ends its context.
type clientStream struct {
	conn    *conn
	ctx     context.Context //nolint:containedctx // gRPC asks the stream for its context
	desc    *grpc.StreamDesc
	method  string
	service string
	options options

	// Of who sends.
	halfClosed bool

	// begun is closed when st and call are there, or far. An RPC with one request begins
	// with it.
	begun    chan struct{}
	st       *stream
	call     *call
	far      grpc.ClientStream // by way of another kas
	endFar   context.CancelFunc
	unwatch  func() bool
	reported atomic.Bool

	// Of who receives.
	pending [][]byte
	over    bool
	err     error
}

// NewStream implements grpc.ClientConnInterface.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	s := &clientStream{conn: c, ctx: ctx, desc: desc, method: method, options: o, begun: make(chan struct{})}
	if s.service, err = serviceOf(method); err == nil && desc.ClientStreams {
		_, err = s.begin(nil, false) //nolint:contextcheck // it is in the stream
	}
	if err != nil {
		s.report(err)
		return nil, err
	}
	return s, nil
}

// begin takes a stream and starts the RPC there, with a message unless it is nil. It returns
// the frames that are still to be sent. Its errors are statuses.
func (s *clientStream) begin(message []byte, last bool) (rest []*agentrpc.TunnelRequest, err error) {
	var r route
	defer r.end()
	for {
		to, err := s.conn.take(s.ctx, s.service, &r)
		if err != nil {
			return nil, err
		}
		if to.url != "" {
			err := s.beginFar(to.url, message)
			if s.conn.goesOn(&r, to.url, err) {
				continue
			}
			return nil, err
		}
		st := to.stream
		if !s.conn.server.hold(st) {
			continue // it has just ended
		}
		first, call := newStart(s.ctx, st, s.method), newStreaming()
		first.frame.HalfClose = last
		if message != nil {
			rest = first.add(message, last)
		}
		// The context may end while the agent does not read.
		unwatch := context.AfterFunc(s.ctx, func() {
			s.report(status.FromContextError(s.ctx.Err()).Err())
			st.cancel(call)
		})
		err = st.start(call, &first.frame)
		if err == nil {
			s.options.lent(st)
			s.st, s.call, s.unwatch = st, call, unwatch
			close(s.begun)
			go func() {
				defer s.conn.server.open.Done()
				st.receive(call)
			}()
			return rest, nil
		}
		unwatch()
		s.conn.server.open.Done()
		if errors.Is(err, errNotBegun) {
			return nil, status.FromContextError(s.ctx.Err()).Err()
		}
	}
}

// Context implements grpc.ClientStream.
func (s *clientStream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ClientStream. io.EOF: RecvMsg says why.
func (s *clientStream) SendMsg(m any) error {
	if s.halfClosed {
		return status.Error(codes.Internal, "a message after the last one")
	}
	message, err := encode(m, s.options.maxSend)
	if err != nil {
		return err
	}
	s.conn.server.metrics.sent(len(message))
	if !s.desc.ClientStreams {
		s.halfClosed = true
		rest, err := s.begin(message, true)
		if err != nil {
			s.report(err)
			return err
		}
		if s.far == nil {
			_ = s.st.sendAll(s.call, rest) // RecvMsg says what is wrong
		}
		return nil
	}
	if s.far != nil {
		return s.far.SendMsg(&grpctool.Raw{Data: message}) //nolint:wrapcheck // io.EOF or a status
	}
	return s.st.sendAll(s.call, framesOf(message, false))
}

// CloseSend implements grpc.ClientStream.
func (s *clientStream) CloseSend() error {
	if s.halfClosed {
		return nil
	}
	s.halfClosed = true
	if !s.desc.ClientStreams {
		if _, err := s.begin(nil, true); err != nil {
			s.report(err)
			return err
		}
		return nil
	}
	if s.far != nil {
		return s.far.CloseSend() //nolint:wrapcheck // it is a status
	}
	_ = s.st.send(s.call, &agentrpc.TunnelRequest{HalfClose: true}) // RecvMsg says why
	return nil
}

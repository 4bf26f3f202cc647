package kas

import (
	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// agentStreams is what observer, tokenLimit, drain and aging do for a stream, in one interceptor.
// Handlers of agents' streams wait for hours, in the stack of gRPC's goroutine: each frame
// below a handler is there tens of thousands of times, and what goes deep before it would be,
// too.
type agentStreams struct {
	observer *observer
	limit    *tokenLimit
	drain    *drain
	aging    aging
}

func (a *agentStreams) interceptor() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		s := &agentStream{drainedStream: drainedStream{ServerStream: stream}, of: a, method: info.FullMethod, onlyTells: !info.IsClientStream}
		defer func() { err = s.end(recover(), err) }()
		if err := grpctool.Aside(s.begin); err != nil {
			return err
		}
		return handler(srv, s)
	}
}

// agentStream is one open stream of an agent.
type agentStream struct {
	drainedStream
	of     *agentStreams
	method string
	// onlyTells is that the agent sends one message, which is received in the handler's
	// goroutine: aside.
	onlyTells bool
	// leave is nil until the stream was let in.
	leave func()
}

// RecvMsg implements grpc.ServerStream.
func (s *agentStream) RecvMsg(m any) error {
	if s.onlyTells {
		return grpctool.Aside(func() error { return s.ServerStream.RecvMsg(m) })
	}
	return s.ServerStream.RecvMsg(m) //nolint:wrapcheck // it is the RPC's status
}

// begin lets the stream in, or says why not.
func (s *agentStream) begin() error {
	s.of.observer.started.WithLabelValues(s.method).Inc()
	if err := s.of.limit.check(s.ServerStream.Context(), s.method); err != nil {
		return err
	}
	ctx, end := s.of.aging.bound(s.ServerStream.Context())
	leave := s.of.drain.enter(func() { end(errDraining) })
	s.ctx, s.leave = ctx, func() { leave(); end(nil) }
	return nil
}

// end notes how the stream ended and returns the error that the agent gets.
func (s *agentStream) end(panicked any, err error) error {
	if s.leave != nil {
		err = s.of.aging.ended(s.ctx, s.method, err)
		s.leave()
		if err != nil && s.of.drain.hasBegun() {
			err = errDraining
		}
	}
	return s.of.observer.ended(s.method, panicked, err)
}

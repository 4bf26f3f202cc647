package tunnel

import (
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Header implements grpc.ClientStream.
func (s *clientStream) Header() (metadata.MD, error) {
	if err := s.awaitBegin(); err != nil {
		return nil, err
	}
	if s.far != nil {
		return s.far.Header() //nolint:wrapcheck // it is a status
	}
	select {
	case <-s.call.headers:
	case <-s.call.done:
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	}
	return s.call.header, nil
}

// Trailer implements grpc.ClientStream.
func (s *clientStream) Trailer() metadata.MD {
	_, trailer := s.metadata()
	return trailer
}

// metadata returns what has come of it.
func (s *clientStream) metadata() (header, trailer metadata.MD) {
	select {
	case <-s.begun:
	default:
		return nil, nil
	}
	if s.far != nil {
		return s.farMetadata()
	}
	select {
	case <-s.call.done:
		return s.call.header, s.call.final.trailer
	default:
	}
	select {
	case <-s.call.headers:
		return s.call.header, nil
	default:
		return nil, nil
	}
}

// RecvMsg implements grpc.ClientStream.
func (s *clientStream) RecvMsg(m any) error {
	message, err := s.next()
	if errors.Is(err, io.EOF) && !s.desc.ServerStreams {
		err = status.Error(codes.Internal, "the agent's answer holds no message")
	}
	if err == nil {
		err = decode(message, m, s.options.maxRecv)
	}
	if err == nil && !s.desc.ServerStreams {
		return s.last()
	}
	if err != nil {
		s.finish(err)
	}
	return err
}

// last receives the end after the only message.
func (s *clientStream) last() error {
	_, err := s.next()
	if err == nil {
		err = status.Error(codes.Internal, "the agent's answer holds several messages")
	}
	s.finish(err)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// next returns the next message; io.EOF: the RPC has ended well.
func (s *clientStream) next() ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	if err := s.awaitBegin(); err != nil {
		return nil, err
	}
	if s.far != nil {
		return s.nextFar()
	}
	if len(s.pending) == 0 && !s.over {
		select {
		case s.pending = <-s.call.frames:
		case <-s.call.done:
			if s.call.went.Load() && s.ctx.Err() != nil { // which is why it has ended
				return nil, status.FromContextError(s.ctx.Err()).Err()
			}
			s.pending, s.over = s.call.final.messages, true
		case <-s.ctx.Done():
			return nil, status.FromContextError(s.ctx.Err()).Err()
		}
	}
	if len(s.pending) > 0 {
		message := s.pending[0]
		s.pending[0], s.pending = nil, s.pending[1:]
		return message, nil
	}
	if s.call.final.err != nil {
		return nil, s.call.final.err
	}
	return nil, io.EOF
}

// awaitBegin waits until the RPC has begun.
func (s *clientStream) awaitBegin() error {
	select {
	case <-s.begun:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// finish notes how the RPC ended for its caller.
func (s *clientStream) finish(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	select {
	case <-s.begun:
		if s.far != nil {
			s.unwatch()
			defer s.endFar()
		} else if s.unwatch() && !s.over { // the caller wants no more though there may be more
			go s.st.cancel(s.call)
		}
	default:
	}
	s.options.fill(s.metadata())
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.report(err)
}

// report counts the RPC's end and says it to who wants to know; only the first counts.
func (s *clientStream) report(err error) {
	if s.reported.Swap(true) {
		return
	}
	s.conn.server.metrics.ended(s.method, err)
	s.options.finished(err)
}

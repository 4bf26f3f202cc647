package private

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// NewStream begins an RPC, of any shape, of an agent that is connected to the replica at a
// URL. It takes *grpctool.Raw for messages. The caller ends ctx when it wants no more.
//
// An RPC that has not begun fails with an error that has a method NotBegun, which returns
// true, and a gRPC status: one with several requests fails so in NewStream; one with one
// request and several answers in NewStream or SendMsg, which wait until it has begun; a
// unary one in NewStream or RecvMsg.
func (c *Client) NewStream(ctx context.Context, url string, agentID int64, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	s := shapeOf(desc)
	ctx = metadata.NewOutgoingContext(ctx, about(ctx, agentID, s))
	rpc, err := c.Conn(url).NewStream(ctx, descOf(s), method, options...)
	if err != nil {
		return nil, notBegunError{err} // nothing was sent
	}
	stream := &agentStream{ClientStream: rpc, shape: s, url: url, left: ctx.Err}
	if s == streaming {
		if err := stream.awaitBegin(); err != nil {
			return nil, err
		}
	}
	return stream, nil
}

// agentStream is an RPC of an agent by way of another replica.
type agentStream struct {
	grpc.ClientStream
	shape shape
	url   string
	left  func() error // what the caller's context says: the stream's ends with the stream

	// headers guards the rest: whoever wants them first receives them.
	headers   sync.Once
	header    metadata.MD
	headerErr error
}

// awaitBegin waits until the RPC has begun, or says why it has not.
func (s *agentStream) awaitBegin() error {
	if md, err := s.ClientStream.Header(); err == nil && md != nil {
		return nil
	}
	err := s.ClientStream.RecvMsg(&agentrpc.TunnelHeaders{})
	if err == nil || errors.Is(err, io.EOF) {
		return status.Errorf(codes.Internal, "the kas at %s answered before the RPC had begun", s.url)
	}
	return s.failure(err)
}

// SendMsg implements grpc.ClientStream.
func (s *agentStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if s.shape == oneRequest && (err == nil || errors.Is(err, io.EOF)) {
		return s.awaitBegin()
	}
	return err //nolint:wrapcheck // io.EOF or a status
}

// Header implements grpc.ClientStream.
func (s *agentStream) Header() (metadata.MD, error) {
	if s.shape == unary {
		md, err := s.ClientStream.Header()
		return crossing(md), err
	}
	s.headers.Do(s.readHeader)
	return s.header, nil // as gRPC has it: receiving says what is wrong
}

func (s *agentStream) readHeader() {
	header := &agentrpc.TunnelHeaders{}
	if s.headerErr = s.ClientStream.RecvMsg(header); s.headerErr == nil {
		s.header = tunnelwire.ToMD(header.GetMetadata())
	}
}

// RecvMsg implements grpc.ClientStream.
func (s *agentStream) RecvMsg(m any) error {
	if s.shape != unary {
		s.headers.Do(s.readHeader)
		if s.headerErr != nil {
			return s.failure(s.headerErr)
		}
	}
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err //nolint:wrapcheck // io.EOF means what it means to gRPC
	}
	return s.failure(err)
}

// Trailer implements grpc.ClientStream.
func (s *agentStream) Trailer() metadata.MD { return crossing(s.ClientStream.Trailer()) }

// failure returns the error of an RPC that has ended.
func (s *agentStream) failure(err error) error {
	if len(s.ClientStream.Trailer().Get(keyNotBegun)) > 0 {
		if status.Code(err) == codes.Unauthenticated {
			err = status.Errorf(codes.Unavailable,
				"the kas at %s refuses the calls of this one: they need the same private_api.listen.authentication_secret_file", s.url)
		}
		return notBegunError{err}
	}
	if lost(err) && s.left() == nil {
		return status.Errorf(codes.Unavailable, "the connection to the kas at %s was lost in the middle of the call", s.url)
	}
	return err
}

// lost tells whether a call ended because its connection was closed here.
func lost(err error) bool {
	return status.Code(err) == codes.Canceled && status.Convert(err).Message() == status.Convert(grpc.ErrClientConnClosing).Message() //nolint:staticcheck // there is no other name for it
}

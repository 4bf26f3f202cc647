package tunnel

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/grpctool"
)

// invokeFar does a unary RPC by way of another kas.
func (c *conn) invokeFar(ctx context.Context, url, method string, message []byte, reply any, o *options) (header, trailer metadata.MD, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rpc, err := c.replicas.NewStream(ctx, url, c.agentID, &grpc.StreamDesc{}, method, o.far()...)
	if err != nil {
		return nil, nil, err
	}
	// io.EOF: it has ended already, and receiving says why.
	if err := rpc.SendMsg(&grpctool.Raw{Data: message}); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err //nolint:wrapcheck // it is a status
	}
	answer := &grpctool.Raw{}
	err = rpc.RecvMsg(answer)
	trailer = rpc.Trailer()
	if err != nil {
		return nil, trailer, err //nolint:wrapcheck // it is a status
	}
	header, _ = rpc.Header() // it has come
	return header, trailer, decode(answer.Data, reply, o.maxRecv)
}

// beginFar begins a streaming RPC by way of another kas: where it has one request, by that.
func (s *clientStream) beginFar(url string, message []byte) error {
	ctx, end := context.WithCancel(s.ctx)
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: s.desc.ClientStreams}
	rpc, err := s.conn.replicas.NewStream(ctx, url, s.conn.agentID, desc, s.method, s.options.far()...)
	switch {
	case err != nil || s.desc.ClientStreams:
	case message != nil:
		err = rpc.SendMsg(&grpctool.Raw{Data: message})
	default:
		err = rpc.CloseSend()
	}
	if err != nil {
		end()
		return err //nolint:wrapcheck // it is a status
	}
	s.far, s.endFar = rpc, end
	s.unwatch = context.AfterFunc(s.ctx, func() { s.report(status.FromContextError(s.ctx.Err()).Err()) })
	close(s.begun)
	return nil
}

// nextFar is next.
func (s *clientStream) nextFar() ([]byte, error) {
	answer := &grpctool.Raw{}
	if err := s.far.RecvMsg(answer); err != nil {
		s.over = true
		return nil, err //nolint:wrapcheck // io.EOF or a status
	}
	return answer.Data, nil
}

// farMetadata is metadata. It does not wait: what has not come is not waited for.
func (s *clientStream) farMetadata() (header, trailer metadata.MD) {
	if !s.over {
		return nil, nil
	}
	header, _ = s.far.Header()
	return header, s.far.Trailer()
}

// far returns the options that another kas's connection heeds.
func (o *options) far() []grpc.CallOption {
	var out []grpc.CallOption
	for _, p := range o.peers {
		out = append(out, grpc.Peer(p))
	}
	return out
}

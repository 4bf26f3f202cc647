package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
)

// cut is a stream whose connection is lost, which nobody has noticed yet.
type cut struct{ *hostile }

func (cut) Send(*agentrpc.TunnelRequest) error { return io.ErrClosedPipe }

func TestConn_RPCThatCouldNotBeginGoesToAnotherStream(t *testing.T) {
	const method = "/" + fuzzedService + "/M"
	for name, call := range map[string]func(*Server) error{
		"unary": func(s *Server) error { return s.Conn(7).Invoke(t.Context(), method, &grpctool.Raw{}, &grpctool.Raw{}) },
		"streaming": func(s *Server) error {
			stream, err := s.Conn(7).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, method)
			require.NoError(t, err)
			return stream.RecvMsg(&grpctool.Raw{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := NewServer(Config{}, Collaborators{Access: anyone{}, Registerer: prometheus.NewRegistry()})
			require.NoError(t, err)
			running, stop := context.WithCancel(t.Context())
			var g errgroup.Group
			g.Go(func() error { return server.Run(running) })
			ctx := metadata.NewIncomingContext(running, metadata.MD{"authorization": {"Bearer t"}})
			hello := &agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{Services: []string{fuzzedService}}}
			answer := &agentrpc.TunnelResponse{Rpc: 1, Messages: []*agentrpc.TunnelMessage{{}}, Trailers: &agentrpc.TunnelTrailers{}}
			whole := &hostile{ctx: ctx, frames: []*agentrpc.TunnelResponse{hello, answer}, begun: make(chan struct{})}
			lost := cut{&hostile{ctx: ctx, frames: []*agentrpc.TunnelResponse{hello}, begun: make(chan struct{})}}
			for n, stream := range []grpc.BidiStreamingServer[agentrpc.TunnelResponse, agentrpc.TunnelRequest]{whole, lost} {
				g.Go(func() error { _ = server.Connect(stream); return nil })
				testkit.Eventually(t, func() error {
					if Streams(server) != n+1 {
						return errors.New("not connected")
					}
					return nil
				})
			}
			require.NoError(t, call(server))
			require.False(t, lost.began.Load())
			require.True(t, whole.began.Load())
			stop()
			require.NoError(t, g.Wait())
		})
	}
}

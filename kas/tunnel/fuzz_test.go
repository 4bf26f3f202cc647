package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// hostile is an agent's stream that says what it was given, as soon as kas has begun an RPC,
// and then ends.
type hostile struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // gRPC asks the stream for its context
	frames []*agentrpc.TunnelResponse
	next   int
	begun  chan struct{}
	began  atomic.Bool
}

func (h *hostile) Context() context.Context     { return h.ctx }
func (h *hostile) SendHeader(metadata.MD) error { return nil }

func (h *hostile) Send(*agentrpc.TunnelRequest) error {
	if !h.began.Swap(true) {
		close(h.begun)
	}
	return nil
}

func (h *hostile) Recv() (*agentrpc.TunnelResponse, error) {
	if h.next > 0 { // after hello
		select {
		case <-h.begun:
		case <-h.ctx.Done():
			return nil, status.FromContextError(h.ctx.Err()).Err()
		}
	}
	if h.next == len(h.frames) {
		return nil, io.EOF
	}
	h.next++
	return h.frames[h.next-1], nil
}

// decode makes frames of bytes: each is two bytes of length and a message.
func decodeFrames(data []byte) (frames []*agentrpc.TunnelResponse) {
	for len(data) >= 2 && len(frames) < 64 {
		n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
		frame := &agentrpc.TunnelResponse{}
		if proto.Unmarshal(data[2:2+n], frame) == nil {
			frames = append(frames, frame)
		}
		data = data[2+n:]
	}
	return frames
}

func encodeFrames(frames ...*agentrpc.TunnelResponse) (data []byte) {
	for _, frame := range frames {
		one, err := proto.Marshal(frame)
		if err != nil {
			panic(err)
		}
		data = append(binary.BigEndian.AppendUint16(data, uint16(len(one))), one...)
	}
	return data
}

type anyone struct{}

func (anyone) Agent(context.Context, string) (gitlabapi.AgentInfo, error) {
	return gitlabapi.AgentInfo{AgentID: 7}, nil
}
func (anyone) Rechecked(int64) <-chan struct{} { return nil }

const fuzzedService = "s.S"

// FuzzServer_Frames: whatever an agent sends, an RPC on its stream ends, the stream ends,
// and nothing is left.
func FuzzServer_Frames(f *testing.F) {
	hello := &agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{Services: []string{fuzzedService}}}
	message := []*agentrpc.TunnelMessage{{Data: []byte("m")}}
	for _, frames := range [][]*agentrpc.TunnelResponse{
		{},
		{hello},
		{hello, hello},
		{{Rpc: 1, Trailers: &agentrpc.TunnelTrailers{}}},
		{hello, {Rpc: 1, Headers: &agentrpc.TunnelHeaders{}, Messages: message, Trailers: &agentrpc.TunnelTrailers{}}},
		{hello, {Rpc: 1, Messages: message}, {Rpc: 1, Headers: &agentrpc.TunnelHeaders{}}},
		{hello, {Rpc: 1, Messages: []*agentrpc.TunnelMessage{{More: true}}}, {Rpc: 1, Trailers: &agentrpc.TunnelTrailers{}}},
		{hello, {Rpc: 1, Headers: &agentrpc.TunnelHeaders{}}, {Rpc: 1, Headers: &agentrpc.TunnelHeaders{}}},
		{hello, {Rpc: 2, Messages: message}},
		{hello, {Messages: message}},
		{hello, {Rpc: 1, Trailers: &agentrpc.TunnelTrailers{Code: 99, Message: "m"}}, {Rpc: 1, Messages: message}},
	} {
		f.Add(encodeFrames(frames...), true)
		f.Add(encodeFrames(frames...), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, streaming bool) {
		registry := prometheus.NewRegistry()
		server, err := NewServer(Config{}, Collaborators{Access: anyone{}, Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": {"Bearer t"}}))
		defer cancel()
		running, stop := context.WithCancel(t.Context())
		var g errgroup.Group
		g.Go(func() error { return server.Run(running) })
		stream := &hostile{ctx: ctx, frames: decodeFrames(data), begun: make(chan struct{})}
		g.Go(func() error {
			err := server.Connect(stream)
			cancel() // or the RPC would wait for an agent
			_ = err  // whatever it is
			return nil
		})
		if streaming {
			err = fuzzStream(ctx, server)
		} else {
			err = server.Conn(7).Invoke(ctx, "/"+fuzzedService+"/M", &grpctool.Raw{}, &grpctool.Raw{})
		}
		if err == nil && len(stream.frames) < 2 {
			t.Error("an RPC has ended well that nobody answered")
		}
		cancel()
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				if m.GetGauge().GetValue() != 0 {
					t.Errorf("%s: %v", family.GetName(), m)
				}
			}
		}
		if len(server.pool.agents) != 0 {
			t.Error("the agent is still remembered")
		}
	})
}

func fuzzStream(ctx context.Context, server *Server) error {
	stream, err := server.Conn(7).NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+fuzzedService+"/M")
	if err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&grpctool.Raw{}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

package tunnel

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// script is a kas that sends these frames, one after another, and then ends the stream.
type script struct {
	grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest]
	ctx    context.Context
	frames []*agentrpc.TunnelRequest

	mu       sync.Mutex
	sent     []*agentrpc.TunnelResponse
	finished map[uint64]chan struct{}
	// current is the RPC begun last; closing: it will end by itself.
	current uint64
	closing bool
}

func (s *script) Connect(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest], error) {
	s.ctx = ctx
	return s, nil
}

func (s *script) trailersOf(rpc uint64) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished[rpc] == nil {
		s.finished[rpc] = make(chan struct{})
	}
	return s.finished[rpc]
}

// RecvMsg keeps a frame that begins an RPC back while the one before is about to end.
func (s *script) RecvMsg(message any) error {
	if len(s.frames) == 0 {
		return io.EOF
	}
	next := s.frames[0]
	s.frames = s.frames[1:]
	if next.GetStart() != nil {
		if s.closing {
			select {
			case <-s.trailersOf(s.current):
			case <-s.ctx.Done():
				return io.EOF
			}
		}
		s.current, s.closing = next.GetRpc(), false
	}
	if next.GetRpc() == s.current && (next.GetHalfClose() || next.GetCancel()) {
		s.closing = true
	}
	proto.Reset(message.(proto.Message))
	proto.Merge(message.(proto.Message), next)
	return nil
}

func (s *script) Send(m *agentrpc.TunnelResponse) error {
	s.mu.Lock()
	s.sent = append(s.sent, proto.CloneOf(m))
	s.mu.Unlock()
	if m.GetTrailers() != nil {
		close(s.trailersOf(m.GetRpc())) // twice: it panics
	}
	return s.ctx.Err()
}

// framesOf reads frames from bytes: each is its length, in two bytes, and that much or
// what is left.
func framesOf(data []byte) (frames []*agentrpc.TunnelRequest) {
	for len(data) >= 2 {
		n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
		m := &agentrpc.TunnelRequest{}
		if proto.Unmarshal(data[2:2+n], m) == nil {
			frames = append(frames, m)
		}
		data = data[2+n:]
	}
	return frames
}

func bytesOf(tb testing.TB, frames ...*agentrpc.TunnelRequest) (data []byte) {
	tb.Helper()
	for _, m := range frames {
		encoded, err := proto.Marshal(m)
		require.NoError(tb, err)
		data = append(binary.BigEndian.AppendUint16(data, uint16(len(encoded))), encoded...)
	}
	return data
}

// FuzzServer_Frames: whatever kas sends, the stream ends, all handlers with it, and what was
// answered keeps to the rules.
func FuzzServer_Frames(f *testing.F) {
	begin := func(rpc uint64, method string) *agentrpc.TunnelRequest {
		return &agentrpc.TunnelRequest{Rpc: rpc, Start: &agentrpc.TunnelStart{Method: method}}
	}
	messages := parts(f, input(3), input(0))
	f.Add(bytesOf(f, whole(f, 1, unaryCall, &testpb.SimpleRequest{Payload: payload(9)}), whole(f, 2, unaryCall, &testpb.SimpleRequest{})))
	f.Add(bytesOf(f, begin(1, fullDuplex), &agentrpc.TunnelRequest{Rpc: 1, Messages: messages}, &agentrpc.TunnelRequest{Rpc: 1, Cancel: true}, begin(2, upload)))
	f.Add(bytesOf(f, whole(f, 1, download, &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 70_000}, {Size: 1}}}), wants(1)))
	f.Add(bytesOf(f, begin(1, upload), &agentrpc.TunnelRequest{Rpc: 1, Messages: messages, HalfClose: true}, &agentrpc.TunnelRequest{Rpc: 1, Cancel: true}, begin(1, upload)))
	f.Add(bytesOf(f, begin(3, "/"), begin(2, ""), wants(1<<31)))
	f.Fuzz(func(t *testing.T, data []byte) {
		kas := &script{frames: framesOf(data), finished: map[uint64]chan struct{}{}}
		begun := map[uint64]bool{}
		for _, m := range kas.frames {
			begun[m.GetRpc()] = begun[m.GetRpc()] || m.GetStart() != nil
			for _, p := range m.GetStart().GetMetadata() {
				p.Key = "kas-" + p.GetKey()
			}
		}
		s := NewServer(Config{Client: kas, Log: zap.NewNop(), Meta: func(context.Context) *agentrpc.AgentMeta { return nil }})
		testpb.RegisterTestServiceServer(s, &service{})
		require.Equal(t, 1, s.pool.take())
		s.goroutines.Add(1)
		s.open(t.Context())
		s.goroutines.Wait()
		require.Zero(t, s.pool.count)
		require.NotNil(t, kas.sent[0].GetHello())
		check(t, kas.sent[1:], begun)
	})
}

// check checks the rules of agentrpc/tunnel.proto for what an agent sends.
func check(t *testing.T, sent []*agentrpc.TunnelResponse, begun map[uint64]bool) {
	t.Helper()
	spoke, ended := map[uint64]bool{}, map[uint64]bool{}
	for _, m := range sent {
		n := m.GetRpc()
		require.Nil(t, m.GetHello())
		require.True(t, begun[n], "RPC %d was answered, and nobody had made it", n)
		require.False(t, ended[n], "RPC %d went on after its trailers", n)
		require.False(t, spoke[n] && m.GetHeaders() != nil, "headers of RPC %d were not first", n)
		for _, part := range m.GetMessages() {
			require.LessOrEqual(t, len(part.GetData()), tunnelwire.FrameSize)
		}
		spoke[n], ended[n] = true, m.GetTrailers() != nil
	}
}

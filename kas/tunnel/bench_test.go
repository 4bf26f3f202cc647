package tunnel_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/kas/tunnel"
)

// bare answers unary calls.
type bare struct {
	testgrpc.UnimplementedTestServiceServer
}

func (bare) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{Payload: in.GetPayload()}, nil
}

// network is a gRPC server on a real TCP port, and a connection to it.
func network(tb testing.TB, register func(*grpc.Server)) *grpc.ClientConn {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	server := grpc.NewServer()
	register(server)
	var g errgroup.Group
	g.Go(func() error { return server.Serve(listener) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(tb, err)
	tb.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		_ = g.Wait()
	})
	return conn
}

// BenchmarkConn_Unary is a unary call through the tunnel, over TCP in one process, beside a
// bare one. The agent's end does as little as it can.
func BenchmarkConn_Unary(b *testing.B) {
	server, err := tunnel.NewServer(tunnel.Config{}, tunnel.Collaborators{Access: &ror{}, Registerer: prometheus.NewRegistry()})
	require.NoError(b, err)
	agent := network(b, func(s *grpc.Server) { agentrpc.RegisterReverseTunnelServer(s, server) })
	var g errgroup.Group
	b.Cleanup(func() { _ = agent.Close(); _ = g.Wait() })
	response := message(&testgrpc.SimpleResponse{Payload: payload(500)}, false)
	for range 4 {
		ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer agent-7")
		rpc, err := agentrpc.NewReverseTunnelClient(agent).Connect(ctx)
		require.NoError(b, err)
		require.NoError(b, rpc.Send(hello(1, testService)))
		g.Go(func() error { answerAll(rpc, response); return nil })
	}
	direct := network(b, func(s *grpc.Server) { testgrpc.RegisterTestServiceServer(s, bare{}) })
	for _, row := range []struct {
		name string
		conn grpc.ClientConnInterface
	}{{"bare", direct}, {"tunnel", server.Conn(7)}} {
		b.Run(row.name, func(b *testing.B) {
			client, request := testgrpc.NewTestServiceClient(row.conn), &testgrpc.SimpleRequest{Payload: payload(500)}
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			_, err := client.UnaryCall(ctx, request)
			require.NoError(b, err)
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				if _, err := client.UnaryCall(ctx, request); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
	}
}

// BenchmarkConn_Download is a stream of 256 MiB in messages of nearly tunnelwire.FrameSize,
// beside a bare one.
func BenchmarkConn_Download(b *testing.B) {
	const messages, size = 4096, 64000
	server, err := tunnel.NewServer(tunnel.Config{}, tunnel.Collaborators{Access: &ror{}, Registerer: prometheus.NewRegistry()})
	require.NoError(b, err)
	agent := network(b, func(s *grpc.Server) { agentrpc.RegisterReverseTunnelServer(s, server) })
	rpc, err := agentrpc.NewReverseTunnelClient(agent).Connect(metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer agent-7"))
	require.NoError(b, err)
	require.NoError(b, rpc.Send(hello(1, testService)))
	var g errgroup.Group
	b.Cleanup(func() { _ = agent.Close(); _ = g.Wait() })
	g.Go(func() error {
		part := message(&testgrpc.StreamingOutputCallResponse{Payload: payload(size)}, false)
		for {
			request, err := rpc.Recv()
			for range messages {
				if err == nil {
					err = rpc.Send(&agentrpc.TunnelResponse{Rpc: request.GetRpc(), Messages: []*agentrpc.TunnelMessage{part}})
				}
			}
			if err != nil || rpc.Send(&agentrpc.TunnelResponse{Rpc: request.GetRpc(), Trailers: &agentrpc.TunnelTrailers{}}) != nil {
				return nil //nolint:nilerr // the benchmark is over
			}
		}
	})
	direct := network(b, func(s *grpc.Server) { testgrpc.RegisterTestServiceServer(s, bare{}) })
	for _, row := range []struct {
		name string
		conn grpc.ClientConnInterface
	}{{"bare", direct}, {"tunnel", server.Conn(7)}} {
		b.Run(row.name, func(b *testing.B) {
			b.SetBytes(messages * size)
			for b.Loop() {
				in := &testgrpc.StreamingOutputCallRequest{ResponseParameters: []*testgrpc.ResponseParameters{{Size: size}, {Size: messages}}}
				stream, err := testgrpc.NewTestServiceClient(row.conn).StreamingOutputCall(b.Context(), in)
				require.NoError(b, err)
				for range messages {
					if _, err := stream.Recv(); err != nil {
						b.Fatal(err)
					}
				}
				_, err = stream.Recv()
				require.ErrorIs(b, err, io.EOF)
			}
		})
	}
}

// StreamingOutputCall sends messages of the first parameter's size, as many as the second says.
func (bare) StreamingOutputCall(in *testgrpc.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	out := &testgrpc.StreamingOutputCallResponse{Payload: payload(int(in.GetResponseParameters()[0].GetSize()))}
	for range in.GetResponseParameters()[1].GetSize() {
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return nil
}

// answerAll answers each RPC with the same message until the stream ends.
func answerAll(rpc grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest], message *agentrpc.TunnelMessage) {
	request, err := rpc.Recv()
	for err == nil {
		err = rpc.Send(&agentrpc.TunnelResponse{
			Rpc: request.GetRpc(), Headers: &agentrpc.TunnelHeaders{}, Messages: []*agentrpc.TunnelMessage{message}, Trailers: &agentrpc.TunnelTrailers{},
		})
		if err == nil {
			request, err = rpc.Recv()
		}
	}
}

// BenchmarkServer_MemoryPerIdleStream is what 1,000 agents with an idle stream each cost in
// this process, where both ends are: connections not counted.
func BenchmarkServer_MemoryPerIdleStream(b *testing.B) {
	const count = 1000
	heap := func() (n runtime.MemStats) {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&n)
		return n
	}
	for b.Loop() {
		server, err := tunnel.NewServer(tunnel.Config{}, tunnel.Collaborators{Access: &ror{}, Registerer: prometheus.NewRegistry()})
		require.NoError(b, err)
		agent := network(b, func(s *grpc.Server) { agentrpc.RegisterReverseTunnelServer(s, server) })
		before, goroutines := heap(), runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(b.Context())
		for n := range count {
			rpc, err := agentrpc.NewReverseTunnelClient(agent).Connect(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer agent-"+string(rune('1'+n%9))))
			require.NoError(b, err)
			require.NoError(b, rpc.Send(hello(int64(n/300), testService)))
			_, err = rpc.Header()
			require.NoError(b, err)
		}
		after := heap()
		b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/count, "heap-B/stream")
		b.ReportMetric((float64(after.StackInuse)-float64(before.StackInuse))/count, "stack-B/stream")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/count, "goroutines/stream")
		cancel()
	}
}

package tunnel

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// dial returns a connection over TCP to a server of what register registers.
func dial(b *testing.B, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	b.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(b.Context(), "tcp", "127.0.0.1:0")
	require.NoError(b, err)
	server := grpc.NewServer()
	register(server)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, conn.Close())
		server.Stop()
		<-served
	})
	return conn
}

// BenchmarkUnary is a unary call over TCP inside one process: by gRPC alone, and over the
// tunnel, from a kas that does nothing but send and receive frames.
func BenchmarkUnary(b *testing.B) {
	request := &testpb.SimpleRequest{Payload: payload(200)}
	b.Run("bare", func(b *testing.B) {
		client := testpb.NewTestServiceClient(dial(b, func(r grpc.ServiceRegistrar) { testpb.RegisterTestServiceServer(r, &service{}) }))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.UnaryCall(b.Context(), request); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tunnel", func(b *testing.B) {
		kas := &kasEnd{opened: make(chan *kasStream, 10)}
		conn := dial(b, func(r grpc.ServiceRegistrar) { agentrpc.RegisterReverseTunnelServer(r, kas) })
		server := NewServer(Config{
			Client: agentrpc.NewReverseTunnelClient(conn), Log: zap.NewNop(),
			Meta: func(context.Context) *agentrpc.AgentMeta { return &agentrpc.AgentMeta{} },
		})
		testpb.RegisterTestServiceServer(server, &service{})
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- server.Run(ctx) }()
		defer func() {
			cancel()
			require.NoError(b, <-ended)
		}()
		s := <-kas.opened
		frame := whole(b, 0, unaryCall, request)
		answer, reply := &agentrpc.TunnelResponse{}, &testpb.SimpleResponse{}
		b.ReportAllocs()
		for b.Loop() {
			frame.Rpc++
			if err := s.Send(frame); err != nil {
				b.Fatal(err)
			}
			if err := s.RecvMsg(answer); err != nil {
				b.Fatal(err)
			}
			if err := grpctool.Unmarshal(answer.GetMessages()[0].GetData(), reply); err != nil || answer.GetTrailers().GetCode() != 0 {
				b.Fatal(err, answer)
			}
		}
	})
}

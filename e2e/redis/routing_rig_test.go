package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"k8s.io/utils/clock"

	agentend "github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/private"
	kasend "github.com/kas-agentk/kas/kas/tunnel"
	"github.com/kas-agentk/kas/sandbox"
)

// kas is what routes in one: its tunnel, its private API, and what it knows of others.
type kas struct {
	*replica
	tunnel *kasend.Server
	calls  *private.Client
	// agents is where they connect.
	agents string
	// client asks agent 7.
	client testgrpc.TestServiceClient
	// kill ends it as kill -9 does: nothing is taken back.
	kill func()
}

// NewStream implements kas/tunnel's Replicas, with Where.
func (k *kas) NewStream(ctx context.Context, url string, agentID int64, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return k.calls.NewStream(ctx, url, agentID, desc, method, options...)
}

// seven lets everybody in as agent 7.
type seven struct{}

func (seven) Agent(context.Context, string) (gitlabapi.AgentInfo, error) {
	return gitlabapi.AgentInfo{AgentID: 7}, nil
}

func (seven) Rechecked(int64) <-chan struct{} { return nil }

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	return l
}

func newKas(tb testing.TB, redis *sandbox.Redis) *kas {
	tb.Helper()
	inward, outward := listen(tb), listen(tb)
	secret := bytes.Repeat([]byte("s"), 32)
	k := &kas{agents: outward.Addr().String(), replica: run(tb, config(redis.Address, "grpc://"+inward.Addr().String()))}
	metrics := prometheus.NewRegistry()
	var err error
	// On a busy machine a ping may take longer than the seconds that it may by default.
	k.calls, err = private.NewClient(private.ClientConfig{Secret: secret, PingTimeout: testkit.Patience}, testkit.Logger(tb), metrics)
	require.NoError(tb, err)
	var changed sync.Mutex // what is said last is what is so last
	k.tunnel, err = kasend.NewServer(kasend.Config{}, kasend.Collaborators{
		Access: seven{}, Registerer: metrics, Replicas: k,
		Changed: func(id int64) {
			go func() {
				changed.Lock()
				defer changed.Unlock()
				if len(k.tunnel.Services(id)) == 0 {
					k.Here(id, nil)
					return
				}
				k.Here(id, []byte("here"))
			}()
		},
	})
	require.NoError(tb, err)
	k.client = testgrpc.NewTestServiceClient(k.tunnel.Conn(7))
	others := private.NewServer(private.ServerConfig{Secret: secret, Clock: clock.RealClock{}}, k.tunnel, testkit.Logger(tb))
	agents := grpc.NewServer()
	agentrpc.RegisterReverseTunnelServer(agents, k.tunnel)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = others.Serve(inward) })
	running.Go(func() { _ = agents.Serve(outward) })
	running.Go(func() { _ = k.calls.Run(ctx) })
	running.Go(func() { _ = k.tunnel.Run(ctx) })
	k.kill = sync.OnceFunc(func() {
		others.Stop()
		agents.Stop()
		cancel()
		running.Wait()
	})
	tb.Cleanup(k.kill)
	return k
}

// severalKas starts kas that know each other.
func severalKas(tb testing.TB, redis *sandbox.Redis, n int) (all []*kas) {
	tb.Helper()
	var urls []string
	for range n {
		k := newKas(tb, redis)
		all, urls = append(all, k), append(urls, k.url)
	}
	for _, k := range all {
		testkit.Eventually(tb, func() error {
			if others, err := k.Others(tb.Context()); err != nil || len(others) != n-1 {
				return fmt.Errorf("%v of %v, %w", others, urls, err)
			}
			return nil
		})
	}
	return all
}

// echo answers RPCs.
type echo struct {
	testgrpc.UnimplementedTestServiceServer
}

func (echo) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (echo) FullDuplexCall(stream grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	for {
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

// agentk connects agent 7 to a kas until leave is called, or the test ends.
func agentk(tb testing.TB, to *kas) (leave func()) {
	tb.Helper()
	conn, err := grpc.NewClient(to.agents, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: func() (string, error) { return "seven", nil }, Plaintext: true}))
	require.NoError(tb, err)
	quick := retry.Policy{Initial: time.Millisecond, Max: 20 * time.Millisecond}
	server := agentend.NewServer(agentend.Config{
		Client: agentrpc.NewReverseTunnelClient(conn), Log: testkit.Logger(tb), Lost: quick, Refused: quick,
		Meta: func(context.Context) *agentrpc.AgentMeta { return &agentrpc.AgentMeta{InstanceId: 1} },
	})
	testgrpc.RegisterTestServiceServer(server, echo{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ran := make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	leave = sync.OnceFunc(func() {
		cancel()
		require.NoError(tb, errors.Join(<-ran, conn.Close()))
	})
	tb.Cleanup(leave)
	return leave
}

package agentk

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

// fakeTunnel is fakeKAS's end of the tunnel. The test reads and writes its streams.
type fakeTunnel struct {
	agentrpc.UnimplementedReverseTunnelServer
	opened chan agentrpc.ReverseTunnel_ConnectServer
}

func (f *fakeTunnel) Connect(stream agentrpc.ReverseTunnel_ConnectServer) error {
	f.opened <- stream
	<-stream.Context().Done()
	return stream.Context().Err()
}

// next waits for the next stream that is opened.
func (f *fakeTunnel) next(t *testing.T) agentrpc.ReverseTunnel_ConnectServer {
	t.Helper()
	select {
	case s := <-f.opened:
		return s
	case <-time.After(testkit.Patience):
		t.Fatal("no stream was opened")
		return nil
	}
}

// checkHealth asks on a stream how the agent is.
func checkHealth(t *testing.T, s agentrpc.ReverseTunnel_ConnectServer) (*agentrpc.TunnelHello, *agentrpc.TunnelResponse, error) {
	t.Helper()
	first, err := s.Recv()
	if err != nil {
		return nil, nil, err
	}
	question, err := proto.Marshal(&grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	if err := s.Send(&agentrpc.TunnelRequest{
		Rpc: 1, Start: &agentrpc.TunnelStart{Method: grpc_health_v1.Health_Check_FullMethodName},
		Messages: []*agentrpc.TunnelMessage{{Data: question}}, HalfClose: true,
	}); err != nil {
		return nil, nil, err
	}
	m, err := s.Recv()
	return first.GetHello(), m, err
}

// standsBy never leads.
type standsBy struct{}

func (standsBy) Lead(ctx context.Context, _ int64, _ func(context.Context, int64)) error {
	<-ctx.Done()
	return nil
}

func TestAgent_AnswersOverTheTunnelAlsoWhenItDoesNotLead(t *testing.T) {
	r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token"), elector: standsBy{}}
	r.kas = startFakeKAS(t, nil)
	r.run(t, "grpc://"+r.kas.address, func(cfg *Config) {
		cfg.Services = append(cfg.Services, func(to grpc.ServiceRegistrar) {
			grpc_health_v1.RegisterHealthServer(to, health.NewServer())
		})
	})
	for range 2 {
		hello, m, err := checkHealth(t, r.kas.tunnel.next(t))
		for err != nil { // a spare one that has gone with the kas before
			hello, m, err = checkHealth(t, r.kas.tunnel.next(t))
		}
		require.Equal(t, "agentk-0", hello.GetAgentMeta().GetPodName())
		require.Equal(t, "v1.34.4", hello.GetAgentMeta().GetKubernetesVersion())
		require.Equal(t, []string{"grpc.health.v1.Health"}, hello.GetServices())
		require.EqualValues(t, codes.OK, m.GetTrailers().GetCode())
		answer := &grpc_health_v1.HealthCheckResponse{}
		require.NoError(t, proto.Unmarshal(m.GetMessages()[0].GetData(), answer))
		require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, answer.GetStatus())
		// It is the same when kas has been away.
		r.kas.stop()
		r.kas.start(t)
	}
}

func TestAgent_WithNothingToAnswerOpensNoTunnel(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	require.Empty(t, r.kas.tunnel.opened)
}

package kasapi_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror/kasapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = []byte(strings.Repeat("s", 32))

// tracker is kas's end: it checks the token as kas does.
type tracker struct {
	railsrpc.UnimplementedAgentTrackerServer
	hang bool
}

func (s *tracker) GetConnectedAgents(ctx context.Context, req *railsrpc.GetConnectedAgentsRequest) (*railsrpc.GetConnectedAgentsResponse, error) {
	token, err := grpctool.BearerToken(ctx)
	if err == nil {
		err = jwtauth.Verify(secret, token, jwtauth.IssuerGitlab, jwtauth.AudienceKas, time.Now())
	}
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	if s.hang {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	res := &railsrpc.GetConnectedAgentsResponse{}
	for _, id := range req.GetAgentIds() {
		res.Agents = append(res.Agents, &railsrpc.ConnectedAgent{AgentId: id})
	}
	return res, nil
}

func start(t *testing.T, s *tracker, commands *statuses, with []byte) *kasapi.Client {
	t.Helper()
	return serve(t, with, func(srv *grpc.Server) {
		railsrpc.RegisterAgentTrackerServer(srv, s)
		railsrpc.RegisterSyncStatusServer(srv, commands)
	})
}

// serve returns a client of a kas that has what register registers.
func serve(t *testing.T, with []byte, register func(*grpc.Server), options ...grpc.DialOption) *kasapi.Client {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	register(srv)
	done := make(chan error, 1)
	go func() { done <- testkit.Serve(srv, l) }()
	c, err := kasapi.NewClient(kasapi.Config{Address: "passthrough:///kas", Secret: with},
		append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		srv.Stop()
		require.NoError(t, <-done)
	})
	return c
}

func TestConnectedAgents_AsksWithAToken(t *testing.T) {
	list, err := start(t, &tracker{}, &statuses{}, secret).ConnectedAgents(t.Context(), []int64{3, 5})
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, int64(5), list[1].GetAgentId())

	_, err = start(t, &tracker{}, &statuses{}, []byte(strings.Repeat("x", 32))).ConnectedAgents(t.Context(), []int64{3})
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}

func TestConnectedAgents_NeverHangs(t *testing.T) {
	began := time.Now()
	_, err := start(t, &tracker{hang: true}, &statuses{}, secret).ConnectedAgents(t.Context(), []int64{3})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	require.GreaterOrEqual(t, time.Since(began), kasapi.Timeout)
}

func TestConnectedAgents_NobodyIsAskedAboutNobody(t *testing.T) {
	list, err := start(t, &tracker{hang: true}, &statuses{}, secret).ConnectedAgents(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, list)
}

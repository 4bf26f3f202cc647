package ror_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/ror"
	"github.com/kas-agentk/kas/ror/registry"
)

// watchedKas is a kas to which agent 1 is connected and that has one thing to tell.
type watchedKas struct {
	railsrpc.UnimplementedAgentTrackerServer
	railsrpc.UnimplementedClusterStateServer
}

func (watchedKas) GetConnectedAgents(context.Context, *railsrpc.GetConnectedAgentsRequest) (*railsrpc.GetConnectedAgentsResponse, error) {
	return &railsrpc.GetConnectedAgentsResponse{Agents: []*railsrpc.ConnectedAgent{{AgentId: 1}}}, nil
}

func (watchedKas) Watch(_ *railsrpc.ClusterWatchRequest, stream grpc.ServerStreamingServer[clusterstate.WatchResponse]) error {
	if err := stream.Send(&clusterstate.WatchResponse{Cursor: "c1"}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// serveKas returns the address of a watchedKas.
func serveKas(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	railsrpc.RegisterAgentTrackerServer(srv, watchedKas{})
	railsrpc.RegisterClusterStateServer(srv, watchedKas{})
	done := make(chan error, 1)
	go func() { done <- testkit.Serve(srv, l) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

func TestRun_DoesNotWaitForWatchersWhenItEnds(t *testing.T) {
	cfg := config(t)
	cfg.KasAPIAddress = serveKas(t)
	reg, err := registry.Open(t.Context(), registry.Config{Path: cfg.Database, PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	_, err = reg.CreateUser(t.Context(), registry.NewUser{Username: "root", Password: "a password", Admin: true})
	require.NoError(t, err)
	p, err := reg.CreateProject(t.Context(), registry.NewProject{Namespace: "root", Path: "config", CreatorID: 1})
	require.NoError(t, err)
	_, err = reg.CreateAgent(t.Context(), p, "dev", 1)
	require.NoError(t, err)
	require.NoError(t, reg.Close())

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	core, logs := observer.New(zap.InfoLevel)
	go func() { done <- ror.Run(ctx, cfg, zap.New(core)) }()
	var address string
	testkit.Eventually(t, func() error {
		for _, entry := range logs.FilterMessage("ror serves").All() {
			address = entry.ContextMap()["address"].(string)
			return nil
		}
		return errors.New("it does not serve yet")
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/api/v4/projects/1/cluster_agents/1/cluster_state/pods?watch=true", http.NoBody)
	require.NoError(t, err)
	r.Header.Set("PRIVATE-TOKEN", "glpat-chosen-by-operator")
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	body := bufio.NewReader(res.Body)
	line, err := body.ReadString('\n')
	require.NoError(t, err)
	require.JSONEq(t, `{"events":[],"cursor":"c1"}`, line)
	cancel()
	require.NoError(t, <-done)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Empty(t, rest, "a good end: ask again by the cursor")
	require.Empty(t, logs.FilterMessageSnippet("cut off").All())
}

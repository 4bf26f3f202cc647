package kasapi_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
)

// state is kas's end of questions about clusters.
type state struct {
	railsrpc.UnimplementedClusterStateServer
	err error
	// watching is closed when a watch has ended.
	watching chan struct{}
}

func (s *state) Get(_ context.Context, r *railsrpc.ClusterGetRequest) (*clusterstate.GetResponse, error) {
	return &clusterstate.GetResponse{Item: &clusterstate.Item{Name: r.GetRequest().GetName()}}, s.err
}

func (s *state) List(_ *railsrpc.ClusterListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
	// Larger than gRPC's default takes: one large object is a part of its own.
	for _, size := range []int{1, 5 << 20} {
		if err := stream.Send(&clusterstate.ListResponse{Items: []*clusterstate.Item{{Json: make([]byte, size)}}}); err != nil {
			return err
		}
	}
	return s.err
}

func (s *state) Watch(_ *railsrpc.ClusterWatchRequest, stream grpc.ServerStreamingServer[clusterstate.WatchResponse]) error {
	defer close(s.watching)
	if err := stream.Send(&clusterstate.WatchResponse{Cursor: "1"}); err != nil || s.err != nil {
		return errors.Join(err, s.err)
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

func (s *state) ListFleet(r *railsrpc.ListFleetRequest, stream grpc.ServerStreamingServer[railsrpc.ListFleetResponse]) error {
	for _, id := range r.GetAgentIds() {
		if err := stream.Send(&railsrpc.ListFleetResponse{AgentId: id, End: &railsrpc.FleetEnd{}}); err != nil {
			return err
		}
	}
	return s.err
}

func startState(t *testing.T, s *state) *kasapi.Client {
	t.Helper()
	s.watching = make(chan struct{})
	return serve(t, secret, func(srv *grpc.Server) { railsrpc.RegisterClusterStateServer(srv, s) })
}

func TestClusterState_HandsOnEachPart(t *testing.T) {
	s := &state{}
	c := startState(t, s)
	one, err := c.ClusterGet(t.Context(), &railsrpc.ClusterGetRequest{Request: &clusterstate.GetRequest{Name: "a"}})
	require.NoError(t, err)
	require.Equal(t, "a", one.GetItem().GetName())

	var sizes []int
	require.NoError(t, c.ClusterList(t.Context(), &railsrpc.ClusterListRequest{}, func(r *clusterstate.ListResponse) error {
		sizes = append(sizes, len(r.GetItems()[0].GetJson()))
		return nil
	}))
	require.Equal(t, []int{1, 5 << 20}, sizes)

	var agents []int64
	require.NoError(t, c.ListFleet(t.Context(), &railsrpc.ListFleetRequest{AgentIds: []int64{3, 5}}, func(r *railsrpc.ListFleetResponse) error {
		agents = append(agents, r.GetAgentId())
		return nil
	}))
	require.Equal(t, []int64{3, 5}, agents)
}

func TestClusterWatch_EndsWithWhoeverListens(t *testing.T) {
	s := &state{}
	c := startState(t, s)
	enough := errors.New("enough")
	require.ErrorIs(t, c.ClusterWatch(t.Context(), &railsrpc.ClusterWatchRequest{}, func(*clusterstate.WatchResponse) error { return enough }), enough)
	<-s.watching

	c = startState(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.ClusterWatch(ctx, &railsrpc.ClusterWatchRequest{}, func(*clusterstate.WatchResponse) error {
		cancel()
		return nil
	})
	var said *kasapi.Error
	require.ErrorAs(t, err, &said)
	require.Equal(t, codes.Canceled, said.Code)
	<-s.watching
}

func TestClusterState_WordsItsFailures(t *testing.T) {
	for _, row := range []struct {
		name string
		err  error
		http int
		says string
	}{
		{"an agent that is away", status.Error(codes.Unavailable, "agent 3 is not connected"), 503, "agent 3 is not connected"},
		{"what the cluster forbids is not kas's secret", status.Error(codes.PermissionDenied, "agentk may not list secrets"), 403, "agentk may not list secrets"},
		{"a resource that is not served", status.Error(codes.NotFound, "no widgets"), 404, "no widgets"},
		{"a question that makes no sense", status.Error(codes.InvalidArgument, "bad selector"), 400, "bad selector"},
		{"too many questions", status.Error(codes.ResourceExhausted, "too many watches"), 429, "too many watches"},
		{"an agent that is silent", status.Error(codes.DeadlineExceeded, "late"), 504, "no answer within 30s"},
		{"an agent that is too old", status.Error(codes.Unimplemented, "agent 3 cannot be asked, upgrade its agentk: unknown service agentrpc.ClusterQuery"), 502,
			"agent 3 cannot be asked, upgrade its agentk: unknown service agentrpc.ClusterQuery"},
		{"a wrong secret", status.Error(codes.Unauthenticated, "bad token"), 502, "kas does not accept the secret that it should share with this server"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := startState(t, &state{err: row.err})
			_, err := c.ClusterGet(t.Context(), &railsrpc.ClusterGetRequest{})
			requireSaid(t, err, row.http, row.says)
			requireSaid(t, c.ClusterList(t.Context(), &railsrpc.ClusterListRequest{}, func(*clusterstate.ListResponse) error { return nil }), row.http, row.says)
		})
	}
	old := serve(t, secret, func(*grpc.Server) {})
	_, err := old.ClusterGet(t.Context(), &railsrpc.ClusterGetRequest{})
	requireSaid(t, err, 502, "kas does not know this call: is the address that of its API for RoR, and kas as new as this server?")
}

func requireSaid(t *testing.T, err error, code int, says string) {
	t.Helper()
	var said *kasapi.Error
	require.ErrorAs(t, err, &said)
	require.EqualError(t, err, says)
	require.Equal(t, code, said.HTTPStatus())
}

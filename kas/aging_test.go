package kas

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

// offer opens a stream of the tunnel that offers questions about the cluster.
func offer(t *testing.T, conn *grpc.ClientConn) grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest] {
	t.Helper()
	stream, err := agentrpc.NewReverseTunnelClient(conn).Connect(bearing(t, "good"))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{
		AgentMeta: &agentrpc.AgentMeta{InstanceId: 1}, Services: []string{agentrpc.ClusterQuery_ServiceDesc.ServiceName},
	}}))
	_, err = stream.Header() // it was let in
	require.NoError(t, err)
	return stream
}

// An agent's connection reaches its age while an RPC goes on: what is idle ends, for new
// streams to come on another connection, and the RPC is not cut off.
func TestAging_EndsWhatIsIdleAndNothingThatGoesOn(t *testing.T) {
	t.Parallel()
	kas := startEach(t, `{address: "127.0.0.1:0", max_connection_age: 1s}`, `{address: "127.0.0.1:0"}`)
	conn := dial(t, kas.Agent)
	item := &clusterstate.Item{Name: "p", Json: []byte(`{}`)}
	client := railsrpc.NewClusterStateClient(dial(t, kas.API))
	get := func() error {
		ctx, cancel := context.WithTimeout(asRails(t), testkit.Patience)
		defer cancel()
		got, err := client.Get(ctx, &railsrpc.ClusterGetRequest{AgentId: 7, Request: &clusterstate.GetRequest{Name: "p"}})
		if err == nil && !proto.Equal(got.GetItem(), item) {
			err = errors.New("got something else")
		}
		return err
	}
	encoded, err := proto.Marshal(&clusterstate.GetResponse{Item: item})
	require.NoError(t, err)
	old := make(chan struct{})      // closed when the connection is
	begun := make(chan struct{}, 2) // there for each RPC that has begun
	answered, asked := make(chan error, 2), make(chan error, 1)
	answer := func(stream grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest]) {
		answered <- answerOnce(stream, func(*agentrpc.TunnelRequest) *agentrpc.TunnelResponse {
			begun <- struct{}{}
			<-old
			return &agentrpc.TunnelResponse{Messages: []*agentrpc.TunnelMessage{{Data: encoded}}}
		})
	}
	go func() { asked <- get() }()
	busy := offer(t, conn)
	for waiting := true; waiting; {
		go answer(busy)
		select {
		case <-begun:
			waiting = false
		case err := <-answered: // nobody had asked before it was old
			require.ErrorIs(t, err, io.EOF)
			busy = offer(t, conn)
		}
	}

	idle := offer(t, conn)
	watch, err := agentrpc.NewAgentConfigurationClient(conn).Watch(bearing(t, "good"), &agentrpc.WatchRequest{AgentMeta: &agentrpc.AgentMeta{InstanceId: 1}})
	require.NoError(t, err)
	sets := follow(t, kas, "")
	for err == nil {
		_, err = idle.Recv() // how many streams are wanted
	}
	require.ErrorIs(t, err, io.EOF)
	for name, receive := range map[string]func() error{
		"configurations": func() error { _, err := watch.Recv(); return err },
		"object sets":    func() error { _, err := sets.Recv(); return err },
	} {
		for err = nil; err == nil; {
			err = receive()
		}
		require.Equal(t, codes.Unavailable, status.Code(err), name)
		require.ErrorContains(t, err, "reached its age", name)
	}

	close(old)
	require.NoError(t, <-answered)
	require.NoError(t, <-asked)
	for err = nil; err == nil; {
		_, err = busy.Recv()
	}
	require.ErrorIs(t, err, io.EOF)

	go func() { asked <- get() }()
	for waiting := true; waiting; {
		next := offer(t, conn) // on another connection
		go answer(next)
		if err := <-answered; err == nil {
			waiting = false
		} else {
			require.ErrorIs(t, err, io.EOF)
		}
	}
	require.NoError(t, <-asked)
	require.NoError(t, kas.stop())
}

func TestAging_LeavesRPCsADayAtLeast(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{time.Second, 2 * time.Hour} {
		a := aging{age}
		youngest := age - age/10 // when gRPC may take the connection for old
		require.GreaterOrEqual(t, youngest+a.grace()-a.retirement(), connectionGrace)
		require.Greater(t, a.retirement(), age+age/10)
	}
}

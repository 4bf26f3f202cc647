package kas

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

func TestClusterState_IsForRoRAlone(t *testing.T) {
	kas := start(t)
	client := railsrpc.NewClusterStateClient(dial(t, kas.API))
	for name, ctx := range map[string]context.Context{
		"no token":         t.Context(),
		"an agent's token": bearing(t, "good"),
	} {
		if _, err := client.Get(ctx, &railsrpc.ClusterGetRequest{AgentId: 7}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: Get: %v", name, err)
		}
		watch, err := client.Watch(ctx, &railsrpc.ClusterWatchRequest{AgentId: 7})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: Watch: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(asRails(t), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Get(ctx, &railsrpc.ClusterGetRequest{AgentId: 7}); status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("an agent that is away: %v", err)
	}
}

// answerOnce answers the next RPC on a stream of the tunnel, which has one message.
func answerOnce(stream grpc.BidiStreamingClient[agentrpc.TunnelResponse, agentrpc.TunnelRequest], answer func(*agentrpc.TunnelRequest) *agentrpc.TunnelResponse) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if request.GetStart() == nil {
			continue // how many idle streams kas wants
		}
		response := answer(request)
		response.Rpc = request.GetRpc()
		response.Trailers = &agentrpc.TunnelTrailers{}
		return stream.Send(response)
	}
}

func TestClusterState_AsksTheAgentOverItsTunnel(t *testing.T) {
	kas := start(t)
	stream, err := agentrpc.NewReverseTunnelClient(dial(t, kas.Agent)).Connect(bearing(t, "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{
		AgentMeta: &agentrpc.AgentMeta{InstanceId: 1}, Services: []string{agentrpc.ClusterQuery_ServiceDesc.ServiceName},
	}}); err != nil {
		t.Fatal(err)
	}
	item := &clusterstate.Item{Name: "p", Json: []byte(`{}`)}
	answered := make(chan error, 1)
	go func() {
		encoded, err := proto.Marshal(&clusterstate.GetResponse{Item: item})
		if err != nil {
			answered <- err
			return
		}
		for range 2 { // GetResponse and ListResponse have their item in the same field
			if err := answerOnce(stream, func(*agentrpc.TunnelRequest) *agentrpc.TunnelResponse {
				return &agentrpc.TunnelResponse{Messages: []*agentrpc.TunnelMessage{{Data: encoded}}}
			}); err != nil {
				answered <- err
				return
			}
		}
		answered <- nil
	}()
	client := railsrpc.NewClusterStateClient(dial(t, kas.API))
	got, err := client.Get(asRails(t), &railsrpc.ClusterGetRequest{AgentId: 7, Request: &clusterstate.GetRequest{Name: "p"}})
	if err != nil || !proto.Equal(got.GetItem(), item) {
		t.Errorf("got %v, %v", got, err)
	}
	list, err := client.List(asRails(t), &railsrpc.ClusterListRequest{AgentId: 7})
	if err != nil {
		t.Fatal(err)
	}
	if part, err := list.Recv(); err != nil || len(part.GetItems()) != 1 {
		t.Errorf("got %v, %v", part, err)
	}
	if _, err := list.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := kas.stop(); err != nil {
		t.Error(err)
	}
}

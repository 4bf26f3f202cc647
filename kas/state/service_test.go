package state

import (
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

// answering is an agent that answers what a test says.
type answering struct {
	agentrpc.UnimplementedClusterQueryServer
	get  func(context.Context, *clusterstate.GetRequest) (*clusterstate.GetResponse, error)
	list func(*clusterstate.ListRequest, grpc.ServerStreamingServer[clusterstate.ListResponse]) error
}

func (a *answering) Get(ctx context.Context, req *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
	return a.get(ctx, req)
}

func (a *answering) List(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
	if a.list == nil {
		return a.UnimplementedClusterQueryServer.List(req, stream)
	}
	return a.list(req, stream)
}

// newer adds a field to a message that this kas does not know.
func newer[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "later"))
	return m
}

func TestGet_HandsOnWhatItDoesNotKnow(t *testing.T) {
	request := newer(&clusterstate.GetRequest{Resource: &clusterstate.Resource{Resource: "pods"}, Namespace: "n", Name: "p"})
	response := newer(&clusterstate.GetResponse{Item: &clusterstate.Item{Name: "p", Json: []byte(`{}`)}})
	tunnel := newTunnel()
	tunnel.connect(t, 7, &answering{get: func(ctx context.Context, got *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
		if diff := cmp.Diff(request, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > DefaultConfig().Timeout {
			t.Errorf("deadline %v", deadline)
		}
		return response, nil
	}})
	h := start(t, tunnel)
	got, err := h.client.Get(t.Context(), &railsrpc.ClusterGetRequest{AgentId: 7, Request: request})
	if diff := cmp.Diff(response, got, protocmp.Transform()); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if n := testutil.ToFloat64(h.server.metrics.requests.WithLabelValues("Get", "OK")); n != 1 {
		t.Errorf("%v counted", n)
	}
}

func TestList_HandsOnPartsAsTheyCome(t *testing.T) {
	more := make(chan struct{})
	tunnel := newTunnel()
	tunnel.connect(t, 7, &answering{list: func(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
		if err := stream.Send(&clusterstate.ListResponse{Continue: req.GetContinue()}); err != nil {
			return err
		}
		<-more
		if err := stream.Send(&clusterstate.ListResponse{Remaining: 5}); err != nil {
			return err
		}
		return status.Error(codes.DataLoss, "that was it")
	}})
	h := start(t, tunnel)
	stream, err := h.client.List(t.Context(), &railsrpc.ClusterListRequest{AgentId: 7, Request: &clusterstate.ListRequest{Continue: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	part, err := stream.Recv()
	close(more)
	if err != nil || part.GetContinue() != "c" {
		t.Errorf("got %v, %v", part, err)
	}
	if part, err = stream.Recv(); err != nil || part.GetRemaining() != 5 {
		t.Errorf("got %v, %v", part, err)
	}
	if _, err = stream.Recv(); status.Code(err) != codes.DataLoss || status.Convert(err).Message() != "that was it" {
		t.Errorf("got %v", err)
	}
}

func TestGet_SaysWhatIsWrong(t *testing.T) {
	tunnel := newTunnel()
	tunnel.connect(t, 1, &answering{get: func(context.Context, *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
		return nil, status.Error(codes.NotFound, "no pod n/p")
	}})
	tunnel.connect(t, 2, &answering{get: func(ctx context.Context, _ *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	tunnel.connect(t, 3, agentrpc.UnimplementedClusterQueryServer{})
	patient, hasty := start(t, tunnel), start(t, tunnel, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	for name, c := range map[string]struct {
		agentID int64
		code    codes.Code
		text    string
	}{
		"no agent is named":                  {0, codes.InvalidArgument, "agent_id is missing"},
		"the agent says no":                  {1, codes.NotFound, "no pod n/p"},
		"the agent does not answer":          {2, codes.DeadlineExceeded, ""},
		"the agent is too old":               {3, codes.Unimplemented, "agent 3 cannot be asked about its cluster, upgrade its agentk: "},
		"the agent is not connected":         {4, codes.Unavailable, "agent 4 is not connected"},
		"the number of the agent is no such": {-1, codes.InvalidArgument, "agent_id is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			h := patient
			if c.agentID == 2 {
				h = hasty // nobody else has to be quick
			}
			_, err := h.client.Get(t.Context(), &railsrpc.ClusterGetRequest{AgentId: c.agentID, Request: &clusterstate.GetRequest{}})
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.text) {
				t.Errorf("got %v", err)
			}
			list, err := h.client.List(t.Context(), &railsrpc.ClusterListRequest{AgentId: c.agentID})
			if err != nil {
				t.Fatal(err)
			}
			if _, err = list.Recv(); (c.agentID < 1 || c.agentID > 2) && (status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.text)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestServiceDesc_IsTheGeneratedOne: clients, reflection and proxies must not see that the
// service is written by hand.
func TestServiceDesc_IsTheGeneratedOne(t *testing.T) {
	want := &railsrpc.ClusterState_ServiceDesc
	if serviceDesc.ServiceName != want.ServiceName || serviceDesc.Metadata != want.Metadata ||
		len(serviceDesc.Methods) != len(want.Methods) || len(serviceDesc.Streams) != len(want.Streams) {
		t.Errorf("%v, want %v", serviceDesc, want)
	}
	for i, m := range want.Methods {
		if serviceDesc.Methods[i].MethodName != m.MethodName {
			t.Errorf("method %s, want %s", serviceDesc.Methods[i].MethodName, m.MethodName)
		}
	}
	for i, s := range want.Streams {
		got := serviceDesc.Streams[i]
		got.Handler, s.Handler = nil, nil
		if !reflect.DeepEqual(got, s) {
			t.Errorf("stream %v, want %v", got, s)
		}
	}
}

func TestServer_IsSeenByReflectionAndHealth(t *testing.T) {
	h := start(t, newTunnel())
	stream, err := grpc_reflection_v1.NewServerReflectionClient(h.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	services := ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService()
	if !slices.ContainsFunc(services, func(s *grpc_reflection_v1.ServiceResponse) bool { return s.GetName() == "railsrpc.ClusterState" }) {
		t.Errorf("services %v", services)
	}
	file := ask(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "railsrpc.ClusterState"},
	})
	if len(file.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("got %v", file)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	healthy, err := grpc_health_v1.NewHealthClient(h.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || healthy.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", healthy, err)
	}
}

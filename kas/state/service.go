package state

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// service is what serviceDesc dispatches to: railsrpc.ClusterStateServer with encoded
// messages. Requests that are streamed on are read from the stream by its methods.
type service interface {
	serveGet(ctx context.Context, request *grpctool.Raw) (*grpctool.Raw, error)
	serveList(stream grpc.ServerStream) error
	serveWatch(stream grpc.ServerStream) error
	serveFleet(stream grpc.ServerStream) error
}

// serviceDesc is railsrpc.ClusterState. It names the .proto file for reflection.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: "railsrpc.ClusterState",
	HandlerType: (*service)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Get", Handler: handleGet}},
	Streams: []grpc.StreamDesc{
		{StreamName: "List", ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			return srv.(service).serveList(stream)
		}},
		{StreamName: "Watch", ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			return srv.(service).serveWatch(stream)
		}},
		{StreamName: "ListFleet", ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
			return srv.(service).serveFleet(stream)
		}},
	},
	Metadata: "railsrpc/clusterstate.proto",
}

func handleGet(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC gives the order
	request := &grpctool.Raw{}
	if err := decode(request); err != nil {
		return nil, err
	}
	if interceptor == nil {
		return srv.(service).serveGet(ctx, request)
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: railsrpc.ClusterState_Get_FullMethodName}
	return interceptor(ctx, request, info, func(ctx context.Context, request any) (any, error) {
		return srv.(service).serveGet(ctx, request.(*grpctool.Raw))
	})
}

func (s *Server) serveGet(ctx context.Context, request *grpctool.Raw) (*grpctool.Raw, error) {
	answer, err := s.askGet(ctx, request.Data)
	s.metrics.requested(methodGet, err)
	return answer, err
}

func (s *Server) askGet(ctx context.Context, request []byte) (*grpctool.Raw, error) {
	agentID, inner, err := asked(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	answer := &grpctool.Raw{}
	if err := s.tunnel.Conn(agentID).Invoke(ctx, agentrpc.ClusterQuery_Get_FullMethodName, &grpctool.Raw{Data: inner}, answer); err != nil {
		return nil, failure(agentID, err)
	}
	return answer, nil
}

func (s *Server) serveList(stream grpc.ServerStream) error {
	err := s.askList(stream)
	s.metrics.requested(methodList, err)
	return err
}

func (s *Server) askList(stream grpc.ServerStream) error {
	agentID, inner, err := receive(stream)
	if err != nil {
		return err
	}
	ctx, cancel := s.bounded(stream.Context())
	defer cancel()
	return s.list(ctx, agentID, inner, func(part []byte) error {
		if err := stream.SendMsg(&grpctool.Raw{Data: part}); err != nil {
			return fmt.Errorf("send to RoR: %w", err)
		}
		return nil
	})
}

// list calls take with the parts of an agent's answer, the next only when take has
// returned.
func (s *Server) list(ctx context.Context, agentID int64, request []byte, take func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the call ends, also where take fails
	stream, err := s.open(ctx, agentID, listDesc, agentrpc.ClusterQuery_List_FullMethodName, request)
	if err != nil {
		return failure(agentID, err)
	}
	for {
		part := &grpctool.Raw{}
		if err := stream.RecvMsg(part); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return failure(agentID, err)
		}
		if err := take(part.Data); err != nil {
			return err
		}
	}
}

var (
	listDesc  = &grpc.StreamDesc{StreamName: "List", ServerStreams: true}
	watchDesc = &grpc.StreamDesc{StreamName: "Watch", ServerStreams: true}
)

// open begins a server-streaming call. Its end is ctx's: the caller ends that in any case.
func (s *Server) open(ctx context.Context, agentID int64, desc *grpc.StreamDesc, method string, request []byte) (grpc.ClientStream, error) {
	stream, err := s.tunnel.Conn(agentID).NewStream(ctx, desc, method)
	if err != nil {
		return nil, err //nolint:wrapcheck // it is a status, which callers look at
	}
	// io.EOF: the call has ended already, and receiving says why.
	if err := stream.SendMsg(&grpctool.Raw{Data: request}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err //nolint:wrapcheck // as above
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	return stream, nil
}

// receive reads the request of a stream.
func receive(stream grpc.ServerStream) (agentID int64, inner []byte, err error) {
	request := &grpctool.Raw{}
	if err := stream.RecvMsg(request); err != nil {
		return 0, nil, err //nolint:wrapcheck // gRPC says what it was about
	}
	return asked(request.Data)
}

// asked takes apart a request for one agent.
func asked(request []byte) (agentID int64, inner []byte, err error) {
	agentID, inner, err = question(request)
	if err != nil {
		return 0, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if agentID <= 0 {
		return 0, nil, status.Error(codes.InvalidArgument, "agent_id is missing")
	}
	return agentID, inner, nil
}

// failure is how RoR is told of an error of the tunnel or of the agent: by its code and
// text.
func failure(agentID int64, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	if s.Code() == codes.Unimplemented {
		return status.Errorf(codes.Unimplemented, "agent %d cannot be asked about its cluster, upgrade its agentk: %s", agentID, s.Message())
	}
	return s.Err()
}

package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// service is what the agent answers with: what gRPC tries its own interoperation with.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	// Each unless nil.
	unary  func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error)
	output func(testgrpc.TestService_StreamingOutputCallServer) error
	duplex func(testgrpc.TestService_FullDuplexCallServer) error
}

// EmptyCall answers at once.
func (*service) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

// UnaryCall answers with as many bytes as are asked for, or else with what has come.
func (s *service) UnaryCall(ctx context.Context, req *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if s.unary != nil {
		return s.unary(ctx, req)
	}
	if req.GetResponseSize() > 0 {
		return &testgrpc.SimpleResponse{Payload: payload(int(req.GetResponseSize()))}, nil
	}
	return &testgrpc.SimpleResponse{Payload: req.GetPayload()}, nil
}

// StreamingOutputCall sends as many bytes as each parameter says.
func (s *service) StreamingOutputCall(req *testgrpc.StreamingOutputCallRequest, stream testgrpc.TestService_StreamingOutputCallServer) error {
	if s.output != nil {
		return s.output(stream)
	}
	for _, p := range req.GetResponseParameters() {
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: payload(int(p.GetSize()))}); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall answers how many bytes have come.
func (*service) StreamingInputCall(stream testgrpc.TestService_StreamingInputCallServer) error {
	size := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(m.GetPayload().GetBody())
	}
}

// FullDuplexCall sends back what comes.
func (s *service) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	if s.duplex != nil {
		return s.duplex(stream)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

func payload(size int) *testgrpc.Payload {
	return &testgrpc.Payload{Body: bytes.Repeat([]byte{7}, size)}
}

func sizes(of ...int) *testgrpc.StreamingOutputCallRequest {
	req := &testgrpc.StreamingOutputCallRequest{}
	for _, size := range of {
		req.ResponseParameters = append(req.ResponseParameters, &testgrpc.ResponseParameters{Size: int32(size)})
	}
	return req
}

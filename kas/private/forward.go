package private

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/tunnelwire"
)

// forwarder passes RPCs on to agents.
type forwarder struct {
	agents Agents
}

// forward handles calls of services that are not registered.
func (f *forwarder) forward(_ any, stream grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(stream)
	if !ok {
		return refuse(stream, status.Error(codes.Internal, "a call without a method"))
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	agentID, s, err := agentOf(md)
	if err != nil {
		return refuse(stream, err)
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(stream.Context(), crossing(md)))
	defer cancel()
	one := &forwarding{ctx: ctx, cancel: cancel, caller: stream, agent: f.agents.Here(agentID), method: method}
	if s == unary {
		err = one.unary()
	} else {
		err = one.stream(s)
	}
	if notBegun(err) {
		return refuse(stream, err)
	}
	return err
}

// forwarding is one RPC.
type forwarding struct {
	ctx    context.Context //nolint:containedctx // the RPC's own: it lives as long
	cancel context.CancelFunc
	caller grpc.ServerStream
	agent  grpc.ClientConnInterface
	method string
}

func (f *forwarding) unary() error {
	request, answer := &grpctool.Raw{}, &grpctool.Raw{}
	if err := f.caller.RecvMsg(request); err != nil {
		return err //nolint:wrapcheck // gRPC says what it was about
	}
	var header, trailer metadata.MD
	err := f.agent.Invoke(f.ctx, f.method, request, answer, grpc.Header(&header), grpc.Trailer(&trailer))
	f.caller.SetTrailer(crossing(trailer))
	if err != nil {
		return err //nolint:wrapcheck // it is the RPC's status
	}
	if err := f.caller.SetHeader(crossing(header)); err != nil {
		return err //nolint:wrapcheck // as above
	}
	return f.caller.SendMsg(answer) //nolint:wrapcheck // as above
}

func (f *forwarding) stream(s shape) error {
	agent, err := f.begin(s)
	if err != nil {
		return err
	}
	if err := f.caller.SendHeader(nil); err != nil { // it has begun
		return err //nolint:wrapcheck // it is the RPC's status
	}
	if s == streaming {
		go f.requests(agent) // which ends when the RPC does: the caller's messages end then
	}
	header, _ := agent.Header() // receiving says what is wrong
	err = f.caller.SendMsg(&agentrpc.TunnelHeaders{Metadata: tunnelwire.FromMD(crossing(header))})
	for err == nil {
		answer := &grpctool.Raw{}
		if err = agent.RecvMsg(answer); err == nil {
			err = f.caller.SendMsg(answer)
		}
	}
	f.caller.SetTrailer(crossing(agent.Trailer()))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err //nolint:wrapcheck // it is the RPC's status
}

// begin begins an RPC at the agent: one with one request by sending it.
func (f *forwarding) begin(s shape) (grpc.ClientStream, error) {
	first := &grpctool.Raw{}
	if s == oneRequest {
		if err := f.caller.RecvMsg(first); errors.Is(err, io.EOF) {
			return nil, status.Error(codes.InvalidArgument, "there is no request")
		} else if err != nil {
			return nil, err //nolint:wrapcheck // gRPC says what it was about
		}
	}
	agent, err := f.agent.NewStream(f.ctx, descOf(s), f.method)
	if err != nil {
		return nil, err //nolint:wrapcheck // it is the RPC's status
	}
	if s == oneRequest {
		if err := agent.SendMsg(first); err != nil {
			return nil, err //nolint:wrapcheck // as above
		}
	}
	return agent, nil
}

// requests passes requests on until there are no more of them, or the RPC has ended.
func (f *forwarding) requests(agent grpc.ClientStream) {
	for {
		request := &grpctool.Raw{}
		err := f.caller.RecvMsg(request)
		switch {
		case errors.Is(err, io.EOF):
			_ = agent.CloseSend() // receiving says what is wrong
			return
		case err != nil: // the caller has left, or sends what cannot be read
			f.cancel()
			return
		}
		if agent.SendMsg(request) != nil { // as above
			return
		}
	}
}

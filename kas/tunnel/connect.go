package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// maxServices and maxServiceName (in bytes) bound what a TunnelHello names.
const maxServices, maxServiceName = 64, 256

var errSilent = status.Error(codes.InvalidArgument, "no hello has come")

// Connect implements agentrpc.ReverseTunnelServer.
func (s *Server) Connect(rpc grpc.BidiStreamingServer[agentrpc.TunnelResponse, agentrpc.TunnelRequest]) error {
	ctx := rpc.Context()
	token, err := grpctool.BearerToken(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	agent, err := s.access.Agent(ctx, token)
	if err != nil {
		return refusal(err)
	}
	leave, err := s.pool.enter(&s.open, agent.AgentID)
	if err != nil {
		return err
	}
	defer leave()
	hello, err := s.greet(ctx, rpc)
	if err != nil {
		return err
	}
	st := &stream{server: s, rpc: rpc, over: make(chan struct{}), sending: make(chan struct{}, 1)}
	if p, ok := peer.FromContext(ctx); ok {
		st.peer = *p
	}
	if err := rpc.SendHeader(nil); err != nil { // the agent is to know that it was let in
		return err //nolint:wrapcheck // it is the RPC's status
	}
	if err := s.pool.join(st, agent.AgentID, hello.GetAgentMeta().GetInstanceId(), token, hello.GetServices()); err != nil {
		return err
	}
	defer s.pool.leave(st)
	return st.wait(ctx)
}

// greet receives the agent's hello.
func (s *Server) greet(ctx context.Context, rpc grpc.BidiStreamingServer[agentrpc.TunnelResponse, agentrpc.TunnelRequest]) (*agentrpc.TunnelHello, error) {
	type first struct {
		response *agentrpc.TunnelResponse
		err      error
	}
	came := make(chan first, 1)
	s.open.Add(1) // Connect is counted
	go func() {   // Recv returns when Connect has returned, at the latest
		defer s.open.Done()
		response, err := rpc.Recv()
		came <- first{response, err}
	}()
	timer := s.cfg.Clock.NewTimer(s.cfg.CancelGrace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-timer.C():
		return nil, errSilent
	case <-s.pool.closing:
		return nil, errDraining
	case f := <-came:
		if errors.Is(f.err, io.EOF) {
			return nil, errSilent
		}
		if f.err != nil {
			return nil, f.err
		}
		return checkHello(f.response)
	}
}

func checkHello(response *agentrpc.TunnelResponse) (*agentrpc.TunnelHello, error) {
	hello := response.GetHello()
	if hello == nil || response.GetRpc() != 0 || response.GetHeaders() != nil || len(response.GetMessages()) > 0 || response.GetTrailers() != nil {
		return nil, status.Error(codes.InvalidArgument, "the first message must be a hello and nothing else")
	}
	if len(hello.GetServices()) > maxServices {
		return nil, status.Errorf(codes.InvalidArgument, "hello: %d services, more than %d", len(hello.GetServices()), maxServices)
	}
	for _, name := range hello.GetServices() {
		if name == "" || len(name) > maxServiceName {
			return nil, status.Errorf(codes.InvalidArgument, "hello: a service's name has %d bytes", len(name))
		}
	}
	return hello, nil
}

// wait waits for the end of a stream, and returns why it came.
func (st *stream) wait(ctx context.Context) error {
	s, one := st.server, st.process
	rechecked := s.access.Rechecked(one.agent.id)
	// It may have rung since the stream was let in.
	if why := s.check(ctx, one.token, one.agent.id); why != nil {
		s.pool.expel(one, why)
	}
	for waiting := true; waiting; {
		select {
		case <-rechecked:
			rechecked = s.access.Rechecked(one.agent.id)
			if why := s.check(ctx, one.token, one.agent.id); why != nil {
				s.pool.expel(one, why)
			}
		case <-ctx.Done():
			s.pool.retire(st, status.FromContextError(ctx.Err()).Err())
			<-st.over // an RPC may still be going on
			waiting = false
		case <-st.over:
			waiting = false
		}
	}
	if st.parting == 0 {
		return st.why
	}
	if err := st.rpc.Send(&agentrpc.TunnelRequest{IdleStreams: proto.Uint32(st.parting)}); err != nil {
		return fmt.Errorf("let a stream go: %w", err)
	}
	return st.why
}

// refusal returns the status that ends a stream for an error of Access.
func refusal(err error) error {
	if refused(err) {
		return status.Error(status.Code(err), grpctool.Words(err))
	}
	return status.Errorf(codes.Unavailable, "ask who the agent is: %s", grpctool.Words(err))
}

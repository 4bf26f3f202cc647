package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

const (
	// mostAgents bounds how many agents one call may ask.
	mostAgents = 10_000
	// fleetReserve is how much of the time is kept for reporting who is late: a tenth of
	// it, and this at most.
	fleetReserve = 2 * time.Second
	// mostText is where the text of an error is cut, in bytes.
	mostText = 4 << 10
)

func (s *Server) serveFleet(stream grpc.ServerStream) error {
	err := s.listFleet(stream)
	s.metrics.requested(methodFleet, err)
	return err
}

func (s *Server) listFleet(stream grpc.ServerStream) error {
	request := &railsrpc.ListFleetRequest{}
	if err := stream.RecvMsg(request); err != nil {
		return err //nolint:wrapcheck // gRPC says what it was about
	}
	connected, away, err := s.whom(stream.Context(), request)
	if err != nil {
		return err
	}
	inner, err := proto.Marshal(request.GetRequest())
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "request: %s", err)
	}
	ctx, cancel := s.bounded(stream.Context())
	defer cancel()
	f := &fleet{server: s, stream: stream}
	for _, id := range away {
		if err := f.end(id, status.Errorf(codes.Unavailable, "agent %d is not connected", id)); err != nil {
			return err
		}
	}
	return f.ask(ctx, connected, inner)
}

// whom returns which agents to ask, and which of those wanted are away.
func (s *Server) whom(ctx context.Context, request *railsrpc.ListFleetRequest) (connected, away []int64, err error) {
	wanted := request.GetAgentIds()
	switch {
	case len(wanted) == 0 && request.GetProjectId() <= 0:
		return nil, nil, status.Error(codes.InvalidArgument, "agent_ids or project_id must say which agents are meant")
	case len(wanted) > mostAgents:
		return nil, nil, status.Errorf(codes.InvalidArgument, "agent_ids names %d agents, at most %d are asked at once", len(wanted), mostAgents)
	case slices.ContainsFunc(wanted, func(id int64) bool { return id <= 0 }):
		return nil, nil, status.Error(codes.InvalidArgument, "agent_ids has one that is no agent's")
	}
	var project *int64
	if len(wanted) == 0 {
		project = &request.ProjectId
	}
	there := make(map[int64]bool)
	for _, c := range s.agents.Connected(ctx, wanted, project) {
		if !there[c.GetAgentId()] {
			there[c.GetAgentId()] = true
			connected = append(connected, c.GetAgentId())
		}
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(wanted))) {
		if !there[id] {
			away = append(away, id)
		}
	}
	return connected, away, nil
}

// fleet is one ListFleet.
type fleet struct {
	server *Server
	// mu is held while a response is being sent: one at a time, and those who wait do not
	// ask their agents for more.
	mu     sync.Mutex
	stream grpc.ServerStream
}

// ask asks agents, a bounded number at a time, and sends their answers and how they ended.
func (f *fleet) ask(ctx context.Context, agents []int64, request []byte) error {
	// ctx has a deadline: see bounded.
	deadline, _ := ctx.Deadline()
	late, cancel := context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, fleetReserve)))
	defer cancel()
	g, late := errgroup.WithContext(late)
	g.SetLimit(f.server.config.FleetParallel)
	for _, id := range agents {
		g.Go(func() error { return f.askOne(late, id, request) })
	}
	return g.Wait()
}

// errSilent ends the call to an agent that does not begin to answer.
var errSilent = errors.New("the agent does not begin to answer")

// askOne asks an agent and sends its answer and how it ended. Its error is that of sending.
func (f *fleet) askOne(ctx context.Context, agentID int64, request []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(f.server.config.FleetWait, func() { cancel(errSilent) })
	defer silence.Stop()
	var lost error // RoR, that is
	err := f.server.list(ctx, agentID, request, func(part []byte) error {
		silence.Stop()
		lost = f.part(agentID, part)
		return lost
	})
	switch {
	case lost != nil:
		return lost
	case err != nil && errors.Is(context.Cause(ctx), errSilent):
		err = status.Errorf(codes.DeadlineExceeded, "it did not begin to within %s", f.server.config.FleetWait)
	}
	return f.end(agentID, err)
}

// part sends a part of an agent's answer.
func (f *fleet) part(agentID int64, part []byte) error {
	out := appendAgent(make([]byte, 0, len(part)+32), agentID)
	return f.send(appendBytes(out, fleetResponse, part))
}

// end sends how an agent's answer ended.
func (f *fleet) end(agentID int64, err error) error {
	end := &railsrpc.FleetEnd{}
	if err != nil {
		s, _ := status.FromError(err)
		end.Code, end.Message = uint32(s.Code()), s.Message()
		if s.Code() == codes.DeadlineExceeded {
			end.Message = fmt.Sprintf("agent %d did not answer in time: %s", agentID, s.Message())
		}
		end.Message = strings.ToValidUTF8(end.Message[:min(len(end.Message), mostText)], "")
	}
	f.server.metrics.fleet.WithLabelValues(codes.Code(end.GetCode()).String()).Inc()
	data, err := proto.Marshal(&railsrpc.ListFleetResponse{AgentId: agentID, End: end})
	if err != nil {
		return status.Errorf(codes.Internal, "encode the end of an answer: %s", err)
	}
	return f.send(data)
}

func (f *fleet) send(data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.stream.SendMsg(&grpctool.Raw{Data: data}); err != nil {
		return fmt.Errorf("send to RoR: %w", err)
	}
	return nil
}

func appendAgent(out []byte, agentID int64) []byte {
	out = protowire.AppendTag(out, fleetAgentID, protowire.VarintType)
	return protowire.AppendVarint(out, uint64(agentID))
}

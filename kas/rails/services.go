package rails

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// maxAgentsAsked bounds how many agents one call may ask for.
const maxAgentsAsked = 10_000

// Agents knows which agents are connected.
type Agents interface {
	// Connected lists the connections of these agents (none given: of all), to whichever
	// kas, ordered by agent, and only those that are configured in projectID unless it is nil.
	Connected(ctx context.Context, agentIDs []int64, projectID *int64) []*railsrpc.ConnectedAgent
}

// Statuses knows how far manifest projects are. Messages that it returns are not changed
// by anyone any more.
type Statuses interface {
	// Get returns one project's status with its objects; false: it is not known.
	Get(ctx context.Context, agentID int64, projectID string) (*syncstatus.ProjectStatus, bool)
	// List returns an agent's projects without objects, ordered by project, and how its
	// configuration fares (nil: not known).
	List(ctx context.Context, agentID int64) ([]*syncstatus.ProjectStatus, *syncstatus.ConfigurationStatus)
	// Watch calls send with each status that there is, and again after each change, until
	// ctx ends or send fails. An empty projectID means all of the agent's.
	Watch(ctx context.Context, agentID int64, projectID string, send func(*syncstatus.ProjectStatus) error) error
}

// Controls carries to agents what people want of their projects. Its errors have a gRPC
// status: UNAVAILABLE where no agent is connected for the project.
type Controls interface {
	// Command returns when the agent has answered.
	Command(ctx context.Context, agentID int64, projectID string, command *agentrpc.Command) error
	// Compare calls send with what a ref (nil: what the project follows) would do to the
	// cluster.
	Compare(ctx context.Context, agentID int64, projectID string, ref *agentcfg.GitRef, by string, send func(*railsrpc.DiffResponse) error) error
}

// RegisterServices adds what RoR may ask of kas to a server.
func RegisterServices(server grpc.ServiceRegistrar, agents Agents, statuses Statuses, controls Controls) {
	railsrpc.RegisterAgentTrackerServer(server, &agentTracker{agents: agents})
	railsrpc.RegisterSyncStatusServer(server, &syncStatus{agents: agents, statuses: statuses, controls: controls})
}

type agentTracker struct {
	railsrpc.UnimplementedAgentTrackerServer
	agents Agents
}

// GetConnectedAgents implements railsrpc.AgentTrackerServer.
func (t *agentTracker) GetConnectedAgents(ctx context.Context, req *railsrpc.GetConnectedAgentsRequest) (*railsrpc.GetConnectedAgentsResponse, error) {
	if n := len(req.GetAgentIds()); n > maxAgentsAsked {
		return nil, status.Errorf(codes.InvalidArgument, "agent_ids names %d agents, at most %d are answered at once", n, maxAgentsAsked)
	}
	return &railsrpc.GetConnectedAgentsResponse{Agents: t.agents.Connected(ctx, req.GetAgentIds(), req.ProjectId)}, nil
}

type syncStatus struct {
	railsrpc.UnimplementedSyncStatusServer
	agents   Agents
	statuses Statuses
	controls Controls
}

// Get implements railsrpc.SyncStatusServer.
func (s *syncStatus) Get(ctx context.Context, req *railsrpc.GetRequest) (*railsrpc.GetResponse, error) {
	if err := wantAgent(req.GetAgentId()); err != nil {
		return nil, err
	}
	if req.GetProjectId() == "" {
		return nil, status.Error(codes.InvalidArgument, "project_id is missing")
	}
	found, ok := s.statuses.Get(ctx, req.GetAgentId(), req.GetProjectId())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "agent %d does not follow project %q, or this kas has not heard of it yet",
			req.GetAgentId(), req.GetProjectId())
	}
	return &railsrpc.GetResponse{Status: found}, nil
}

// List implements railsrpc.SyncStatusServer.
func (s *syncStatus) List(ctx context.Context, req *railsrpc.ListRequest) (*railsrpc.ListResponse, error) {
	if err := wantAgent(req.GetAgentId()); err != nil {
		return nil, err
	}
	statuses, configuration := s.statuses.List(ctx, req.GetAgentId())
	return &railsrpc.ListResponse{Statuses: statuses, Configuration: configuration}, nil
}

// Watch implements railsrpc.SyncStatusServer.
func (s *syncStatus) Watch(req *railsrpc.WatchRequest, stream grpc.ServerStreamingServer[railsrpc.WatchResponse]) error {
	if err := wantAgent(req.GetAgentId()); err != nil {
		return err
	}
	return s.statuses.Watch(stream.Context(), req.GetAgentId(), req.GetProjectId(), func(p *syncstatus.ProjectStatus) error {
		return stream.Send(&railsrpc.WatchResponse{Status: p})
	})
}

func wantAgent(id int64) error {
	if id <= 0 {
		return status.Error(codes.InvalidArgument, "agent_id is missing")
	}
	return nil
}

package rails

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// Repositories are followed.
type Repositories interface {
	// Poke has the repositories that match polled now. It does not wait for that.
	Poke(match func(gitlabapi.GitalyRepository) bool)
}

// Tokens are believed for a while.
type Tokens interface {
	// Recheck has RoR asked anew about the tokens of an agent. It does not wait for that.
	Recheck(agentID int64)
}

// RegisterNotifications adds what RoR may tell kas to a server.
func RegisterNotifications(server grpc.ServiceRegistrar, repositories Repositories, tokens Tokens) {
	railsrpc.RegisterNotificationsServer(server, &notifications{repositories: repositories, tokens: tokens})
}

type notifications struct {
	railsrpc.UnimplementedNotificationsServer
	repositories Repositories
	tokens       Tokens
}

// GitPushEvent implements railsrpc.NotificationsServer. A project is known by its number
// where the repository tells it, for paths change.
func (n *notifications) GitPushEvent(_ context.Context, req *railsrpc.GitPushEventRequest) (*railsrpc.GitPushEventResponse, error) {
	project := req.GetProject()
	if project.GetId() <= 0 && project.GetFullPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "project is missing: give its id, its full_path or both")
	}
	number := "project-" + strconv.FormatInt(project.GetId(), 10)
	n.repositories.Poke(func(r gitlabapi.GitalyRepository) bool {
		return project.GetId() > 0 && r.GlRepository == number ||
			project.GetFullPath() != "" && r.GlProjectPath == project.GetFullPath()
	})
	return &railsrpc.GitPushEventResponse{}, nil
}

// AgentTokenRevoked implements railsrpc.NotificationsServer.
func (n *notifications) AgentTokenRevoked(_ context.Context, req *railsrpc.AgentTokenRevokedRequest) (*railsrpc.AgentTokenRevokedResponse, error) {
	if err := wantAgent(req.GetAgentId()); err != nil {
		return nil, err
	}
	n.tokens.Recheck(req.GetAgentId())
	return &railsrpc.AgentTokenRevokedResponse{}, nil
}

package rails

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/tracing"
)

// Repositories are followed.
type Repositories interface {
	// Poke has the repositories that match polled now. It does not wait for that. The
	// trace context is that of the push, or empty.
	Poke(match func(gitlabapi.GitalyRepository) bool, traceparent string)
}

// Tokens are believed for a while.
type Tokens interface {
	// Recheck has RoR asked anew about the tokens of an agent. It does not wait for that.
	Recheck(agentID int64)
}

// Bus tells other replicas of kas.
type Bus interface {
	// Tell has Notifications.Heard of each other replica called with a message on the
	// topic. It may get lost. It does not block.
	Tell(topic string, message []byte)
}

// NotificationsTopic is what Notifications tell each other on.
const NotificationsTopic = "notifications"

// Notifications are what RoR may tell kas: any replica, for all.
type Notifications struct {
	railsrpc.UnimplementedNotificationsServer
	repositories Repositories
	tokens       Tokens
	bus          Bus
}

// NewNotifications hands on what RoR tells. A nil bus: this kas is alone.
func NewNotifications(repositories Repositories, tokens Tokens, bus Bus) *Notifications {
	return &Notifications{repositories: repositories, tokens: tokens, bus: bus}
}

// Register adds them to a server.
func (n *Notifications) Register(server grpc.ServiceRegistrar) {
	railsrpc.RegisterNotificationsServer(server, n)
}

// What messages begin with.
const (
	pushed  = 'p'
	revoked = 'r'
)

// tell tells the other replicas.
func (n *Notifications) tell(kind byte, req proto.Message) {
	if n.bus == nil {
		return
	}
	if message, err := (proto.MarshalOptions{}).MarshalAppend([]byte{kind}, req); err == nil { // it was decoded before
		n.bus.Tell(NotificationsTopic, message)
	}
}

// Heard takes what RoR has told another replica. What was missed would have come sooner
// than by itself, that is all.
func (n *Notifications) Heard(message []byte) {
	if len(message) == 0 {
		return
	}
	switch kind, rest := message[0], message[1:]; kind {
	case pushed:
		req := &railsrpc.GitPushEventRequest{}
		if proto.Unmarshal(rest, req) == nil {
			n.poke(req.GetProject(), req.GetTraceparent())
		}
	case revoked:
		req := &railsrpc.AgentTokenRevokedRequest{}
		if proto.Unmarshal(rest, req) == nil {
			n.tokens.Recheck(req.GetAgentId())
		}
	}
}

// GitPushEvent implements railsrpc.NotificationsServer.
func (n *Notifications) GitPushEvent(ctx context.Context, req *railsrpc.GitPushEventRequest) (*railsrpc.GitPushEventResponse, error) {
	project := req.GetProject()
	if project.GetId() <= 0 && project.GetFullPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "project is missing: give its id, its full_path or both")
	}
	traceparent := tracing.Traceparent(ctx)
	n.poke(project, traceparent)
	n.tell(pushed, &railsrpc.GitPushEventRequest{Project: project, Traceparent: traceparent})
	return &railsrpc.GitPushEventResponse{}, nil
}

// poke has a project polled. It is known by its number where the repository tells it, for
// paths change.
func (n *Notifications) poke(project *railsrpc.Project, traceparent string) {
	number := "project-" + strconv.FormatInt(project.GetId(), 10)
	n.repositories.Poke(func(r gitlabapi.GitalyRepository) bool {
		return project.GetId() > 0 && r.GlRepository == number ||
			project.GetFullPath() != "" && r.GlProjectPath == project.GetFullPath()
	}, traceparent)
}

// AgentTokenRevoked implements railsrpc.NotificationsServer.
func (n *Notifications) AgentTokenRevoked(_ context.Context, req *railsrpc.AgentTokenRevokedRequest) (*railsrpc.AgentTokenRevokedResponse, error) {
	if err := wantAgent(req.GetAgentId()); err != nil {
		return nil, err
	}
	n.tokens.Recheck(req.GetAgentId())
	n.tell(revoked, req)
	return &railsrpc.AgentTokenRevokedResponse{}, nil
}

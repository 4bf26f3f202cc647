package rails

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
)

// LocalControls carries commands to agents that are connected to this kas.
type LocalControls interface {
	Controls
	// Follows tells whether an agent has a stream open here for the project.
	Follows(agentID int64, projectID string) bool
}

// Others finds other replicas of kas.
type Others interface {
	// With returns those that have the agent: connections to their servers that have
	// SyncStatus, for what is there and not elsewhere.
	With(ctx context.Context, agentID int64) ([]grpc.ClientConnInterface, error)
}

// Everywhere is the Controls of all replicas: what concerns a stream that is open at another
// one is done there. A command that is lost with its replica is given to the next one that
// has the agent: to do it twice does what once does.
type Everywhere struct {
	Local  LocalControls
	Others Others
}

// errLost is for a connection that was given up: nobody has cancelled anything.
var errLost = status.Error(codes.Unavailable, "the kas that the agent is connected to cannot be reached, or was lost before it answered: try again")

// Command implements Controls.
func (e *Everywhere) Command(ctx context.Context, agentID int64, projectID string, command *agentrpc.Command) error {
	return e.route(ctx, agentID, projectID,
		func() error { return e.Local.Command(ctx, agentID, projectID, command) },
		func(there railsrpc.SyncStatusClient) (bool, error) {
			return true, pass(ctx, there, agentID, projectID, command)
		})
}

// Compare implements Controls.
func (e *Everywhere) Compare(ctx context.Context, agentID int64, projectID string, ref *agentcfg.GitRef, by string, send func(*railsrpc.DiffResponse) error) error {
	return e.route(ctx, agentID, projectID,
		func() error { return e.Local.Compare(ctx, agentID, projectID, ref, by, send) },
		func(there railsrpc.SyncStatusClient) (bool, error) {
			return passDiff(ctx, there, &railsrpc.DiffRequest{AgentId: agentID, ProjectId: projectID, Ref: ref, By: by}, send)
		})
}

// route calls here, or there for replicas that have the agent until one has the stream.
// there tells whether it may be called again for another one.
func (e *Everywhere) route(ctx context.Context, agentID int64, projectID string, here func() error, there func(railsrpc.SyncStatusClient) (bool, error)) error {
	if e.Local.Follows(agentID, projectID) {
		return here()
	}
	others, err := e.Others.With(ctx, agentID)
	if err != nil {
		return status.Errorf(codes.Unavailable, "agent %d is not connected to this kas for project %q, and where else it is cannot be found out now: %v",
			agentID, projectID, err)
	}
	var last error
	for _, conn := range others {
		again, err := there(railsrpc.NewSyncStatusClient(conn))
		if status.Code(err) == codes.Canceled && ctx.Err() == nil {
			err = errLost
		}
		if code := status.Code(err); !again || code != codes.Unavailable && code != codes.NotFound {
			return err
		}
		last = err
	}
	if last != nil {
		return last
	}
	return here() // it says that it has no stream, or has one by now
}

// pass has another replica do what a command says.
func pass(ctx context.Context, there railsrpc.SyncStatusClient, agentID int64, projectID string, command *agentrpc.Command) error {
	by := command.GetBy()
	var err error
	switch what := command.GetCommand().(type) {
	case *agentrpc.Command_SyncNow:
		_, err = there.Sync(ctx, &railsrpc.SyncRequest{AgentId: agentID, ProjectId: projectID, By: by})
	case *agentrpc.Command_Suspend:
		_, err = there.Suspend(ctx, &railsrpc.SuspendRequest{AgentId: agentID, ProjectId: projectID, By: by})
	case *agentrpc.Command_Resume:
		_, err = there.Resume(ctx, &railsrpc.ResumeRequest{AgentId: agentID, ProjectId: projectID, By: by})
	case *agentrpc.Command_ApprovePrune:
		_, err = there.ApprovePrune(ctx, &railsrpc.ApprovePruneRequest{
			AgentId: agentID, ProjectId: projectID, By: by, CommitId: what.ApprovePrune.GetCommitId(),
		})
	default:
		err = status.Errorf(codes.Unimplemented, "other replicas of kas are not told of commands like %T", what)
	}
	return err
}

// passDiff hands on what another replica says. It tells whether nothing was handed on yet.
func passDiff(ctx context.Context, there railsrpc.SyncStatusClient, req *railsrpc.DiffRequest, send func(*railsrpc.DiffResponse) error) (nothing bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := there.Diff(ctx, req)
	nothing = true
	for err == nil {
		var part *railsrpc.DiffResponse
		if part, err = stream.Recv(); err == nil {
			nothing = false
			err = send(part)
		}
	}
	if errors.Is(err, io.EOF) {
		return nothing, nil
	}
	return nothing, err
}

package rails

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

const (
	// maxBy is the longest name of a person, in bytes.
	maxBy = 255
	// sha1Length and sha256Length are those of full commit IDs.
	sha1Length, sha256Length = 40, 64
)

// asked is what all requests about one project have in common.
type asked interface {
	GetAgentId() int64
	GetProjectId() string
	GetBy() string
}

func check(req asked) error {
	switch {
	case req.GetAgentId() <= 0:
		return status.Error(codes.InvalidArgument, "agent_id is missing")
	case req.GetProjectId() == "":
		return status.Error(codes.InvalidArgument, "project_id is missing")
	case req.GetBy() == "":
		return status.Error(codes.InvalidArgument, "by is missing: say who asks")
	case len(req.GetBy()) > maxBy:
		return status.Errorf(codes.InvalidArgument, "by has %d bytes, more than the limit of %d", len(req.GetBy()), maxBy)
	default:
		return nil
	}
}

// Sync implements railsrpc.SyncStatusServer.
func (s *syncStatus) Sync(ctx context.Context, req *railsrpc.SyncRequest) (*railsrpc.SyncResponse, error) {
	return &railsrpc.SyncResponse{}, s.command(ctx, req, &agentrpc.Command{Command: &agentrpc.Command_SyncNow{SyncNow: &agentrpc.SyncNow{}}})
}

// Suspend implements railsrpc.SyncStatusServer.
func (s *syncStatus) Suspend(ctx context.Context, req *railsrpc.SuspendRequest) (*railsrpc.SuspendResponse, error) {
	return &railsrpc.SuspendResponse{}, s.command(ctx, req, &agentrpc.Command{Command: &agentrpc.Command_Suspend{Suspend: &agentrpc.Suspend{}}})
}

// Resume implements railsrpc.SyncStatusServer.
func (s *syncStatus) Resume(ctx context.Context, req *railsrpc.ResumeRequest) (*railsrpc.ResumeResponse, error) {
	return &railsrpc.ResumeResponse{}, s.command(ctx, req, &agentrpc.Command{Command: &agentrpc.Command_Resume{Resume: &agentrpc.Resume{}}})
}

// ApprovePrune implements railsrpc.SyncStatusServer.
func (s *syncStatus) ApprovePrune(ctx context.Context, req *railsrpc.ApprovePruneRequest) (*railsrpc.ApprovePruneResponse, error) {
	if n := len(req.GetCommitId()); n != sha1Length && n != sha256Length {
		return nil, status.Errorf(codes.InvalidArgument, "commit_id has %d characters: give the full commit ID of %d", n, sha1Length)
	}
	approve := &agentrpc.ApprovePrune{CommitId: req.GetCommitId()}
	return &railsrpc.ApprovePruneResponse{}, s.command(ctx, req, &agentrpc.Command{Command: &agentrpc.Command_ApprovePrune{ApprovePrune: approve}})
}

// Diff implements railsrpc.SyncStatusServer.
func (s *syncStatus) Diff(req *railsrpc.DiffRequest, stream grpc.ServerStreamingServer[railsrpc.DiffResponse]) error {
	if err := check(req); err != nil {
		return err
	}
	err := s.controls.Compare(stream.Context(), req.GetAgentId(), req.GetProjectId(), req.GetRef(), req.GetBy(), stream.Send)
	return s.explain(stream.Context(), req, err)
}

func (s *syncStatus) command(ctx context.Context, req asked, command *agentrpc.Command) error {
	if err := check(req); err != nil {
		return err
	}
	command.By = req.GetBy()
	return s.explain(ctx, req, s.controls.Command(ctx, req.GetAgentId(), req.GetProjectId(), command))
}

// explain tells an agent that does not follow the project, though it is connected, from
// one that is not connected.
func (s *syncStatus) explain(ctx context.Context, req asked, err error) error {
	if status.Code(err) != codes.Unavailable {
		return err
	}
	statuses, _ := s.statuses.List(ctx, req.GetAgentId())
	known := slices.ContainsFunc(statuses, func(p *syncstatus.ProjectStatus) bool { return p.GetProjectId() == req.GetProjectId() })
	if known || len(s.agents.Connected(ctx, []int64{req.GetAgentId()}, nil)) == 0 {
		return err
	}
	return status.Errorf(codes.NotFound, "agent %d does not follow project %q", req.GetAgentId(), req.GetProjectId())
}

package rails

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// Command refuses everything with what it was asked, so that tests see it.
func (knowing) Command(_ context.Context, agentID int64, projectID string, command *agentrpc.Command) error {
	if projectID == "elsewhere" {
		return status.Error(codes.Unavailable, "agent is not connected")
	}
	return status.Errorf(codes.FailedPrecondition, "%d %s %s %T %s", agentID, projectID, command.GetBy(), command.GetCommand(), command.GetApprovePrune().GetCommitId())
}

func (knowing) Compare(_ context.Context, _ int64, _ string, ref *agentcfg.GitRef, by string, send func(*railsrpc.DiffResponse) error) error {
	if err := send(&railsrpc.DiffResponse{CommitId: ref.GetBranch() + " " + by}); err != nil {
		return err
	}
	return send(&railsrpc.DiffResponse{Differences: []*syncstatus.Difference{{Message: "m"}}})
}

func TestControls_ArePassedOn(t *testing.T) {
	client := railsrpc.NewSyncStatusClient(serve(t))
	ctx := asRails(t)
	const commit = "0123456789012345678901234567890123456789"
	for _, row := range []struct {
		name, want string
		call       func() error
	}{
		{"sync", "7 a/b ann *agentrpc.Command_SyncNow ", func() error {
			_, err := client.Sync(ctx, &railsrpc.SyncRequest{AgentId: 7, ProjectId: "a/b", By: "ann"})
			return err
		}},
		{"suspend", "7 a/b ann *agentrpc.Command_Suspend ", func() error {
			_, err := client.Suspend(ctx, &railsrpc.SuspendRequest{AgentId: 7, ProjectId: "a/b", By: "ann"})
			return err
		}},
		{"resume", "7 a/b ann *agentrpc.Command_Resume ", func() error {
			_, err := client.Resume(ctx, &railsrpc.ResumeRequest{AgentId: 7, ProjectId: "a/b", By: "ann"})
			return err
		}},
		{"approve", "7 a/b ann *agentrpc.Command_ApprovePrune " + commit, func() error {
			_, err := client.ApprovePrune(ctx, &railsrpc.ApprovePruneRequest{AgentId: 7, ProjectId: "a/b", By: "ann", CommitId: commit})
			return err
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.call()
			require.Equal(t, codes.FailedPrecondition, status.Code(err))
			require.Equal(t, row.want, status.Convert(err).Message())
		})
	}
	stream, err := client.Diff(ctx, &railsrpc.DiffRequest{
		AgentId: 7, ProjectId: "a/b", By: "ann", Ref: &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{Branch: "feature"}},
	})
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, "feature ann", first.GetCommitId())
	second, err := stream.Recv()
	require.NoError(t, err)
	require.Len(t, second.GetDifferences(), 1)
}

func TestControls_SayWhatIsMissing(t *testing.T) {
	client := railsrpc.NewSyncStatusClient(serve(t))
	ctx := asRails(t)
	for _, row := range []struct {
		name, want string
		req        *railsrpc.SyncRequest
	}{
		{"no agent", "agent_id is missing", &railsrpc.SyncRequest{ProjectId: "a/b", By: "ann"}},
		{"no project", "project_id is missing", &railsrpc.SyncRequest{AgentId: 7, By: "ann"}},
		{"nobody", "by is missing: say who asks", &railsrpc.SyncRequest{AgentId: 7, ProjectId: "a/b"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := client.Sync(ctx, row.req)
			require.Equal(t, codes.InvalidArgument, status.Code(err))
			require.Equal(t, row.want, status.Convert(err).Message())
		})
	}
	_, err := client.ApprovePrune(ctx, &railsrpc.ApprovePruneRequest{AgentId: 7, ProjectId: "a/b", By: "ann", CommitId: "abc"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

func TestControls_AProjectThatAConnectedAgentDoesNotFollowIsNotFound(t *testing.T) {
	client := railsrpc.NewSyncStatusClient(serve(t))
	_, err := client.Sync(asRails(t), &railsrpc.SyncRequest{AgentId: 7, ProjectId: "elsewhere", By: "ann"})
	require.Equal(t, codes.NotFound, status.Code(err))
	require.Equal(t, `agent 7 does not follow project "elsewhere"`, status.Convert(err).Message())
}

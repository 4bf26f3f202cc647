package kasapi_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/kasapi"
)

// statuses is kas's end of commands.
type statuses struct {
	railsrpc.UnimplementedSyncStatusServer
	asked []any
	err   error
	diff  []*railsrpc.DiffResponse
}

func (s *statuses) Sync(_ context.Context, r *railsrpc.SyncRequest) (*railsrpc.SyncResponse, error) {
	s.asked = append(s.asked, r.GetBy())
	return &railsrpc.SyncResponse{}, s.err
}

func (s *statuses) Suspend(_ context.Context, r *railsrpc.SuspendRequest) (*railsrpc.SuspendResponse, error) {
	s.asked = append(s.asked, r.GetBy())
	return &railsrpc.SuspendResponse{}, s.err
}

func (s *statuses) Resume(_ context.Context, r *railsrpc.ResumeRequest) (*railsrpc.ResumeResponse, error) {
	s.asked = append(s.asked, r.GetBy())
	return &railsrpc.ResumeResponse{}, s.err
}

func (s *statuses) ApprovePrune(_ context.Context, r *railsrpc.ApprovePruneRequest) (*railsrpc.ApprovePruneResponse, error) {
	s.asked = append(s.asked, r.GetCommitId())
	return &railsrpc.ApprovePruneResponse{}, s.err
}

func (s *statuses) Diff(_ *railsrpc.DiffRequest, stream grpc.ServerStreamingServer[railsrpc.DiffResponse]) error {
	for _, d := range s.diff {
		if err := stream.Send(d); err != nil {
			return err
		}
	}
	return s.err
}

func TestCommands_AreCarriedToKas(t *testing.T) {
	kas := &statuses{}
	c := start(t, &tracker{}, kas, secret)
	require.NoError(t, c.Sync(t.Context(), &railsrpc.SyncRequest{By: "a"}))
	require.NoError(t, c.Suspend(t.Context(), &railsrpc.SuspendRequest{By: "b"}))
	require.NoError(t, c.Resume(t.Context(), &railsrpc.ResumeRequest{By: "c"}))
	require.NoError(t, c.ApprovePrune(t.Context(), &railsrpc.ApprovePruneRequest{CommitId: "d"}))
	require.Equal(t, []any{"a", "b", "c", "d"}, kas.asked)
}

func TestDiff_PutsTheAnswersTogether(t *testing.T) {
	kas := &statuses{diff: []*railsrpc.DiffResponse{
		{CommitId: "abc", Errors: []*syncstatus.FileError{{Message: "no"}}, Differences: []*syncstatus.Difference{{Version: "v1"}}},
		{Differences: []*syncstatus.Difference{{Version: "v2"}}},
	}}
	c := start(t, &tracker{}, kas, secret)
	all, err := c.Diff(t.Context(), &railsrpc.DiffRequest{})
	require.NoError(t, err)
	require.Equal(t, "abc", all.GetCommitId())
	require.Len(t, all.GetErrors(), 1)
	require.Len(t, all.GetDifferences(), 2)

	kas.err = status.Error(codes.FailedPrecondition, "another comparison is running")
	_, err = c.Diff(t.Context(), &railsrpc.DiffRequest{})
	require.EqualError(t, err, "another comparison is running", "half an answer is none")
}

func TestCommands_WordTheirFailures(t *testing.T) {
	for _, row := range []struct {
		name string
		err  error
		code codes.Code
		says string
	}{
		{"what kas says of the agent is passed on", status.Error(codes.Unavailable, "agent dev is not connected"), codes.Unavailable, "agent dev is not connected"},
		{"so is why it could not be done", status.Error(codes.FailedPrecondition, "nothing is held"), codes.FailedPrecondition, "nothing is held"},
		{"a silent agent may have done it", status.Error(codes.DeadlineExceeded, "context deadline exceeded"), codes.DeadlineExceeded, "no answer within 20s: the status will show whether it was done"},
		{"a wrong secret is not the visitor's", status.Error(codes.Unauthenticated, "bad token"), codes.Unauthenticated, "kas does not accept the secret that it should share with this server"},
		{"an old kas does not know it", status.Error(codes.Unimplemented, "unknown method"), codes.Unimplemented, "kas does not know this call: is the address that of its API for RoR, and kas as new as this server?"},
		{"a bug is a bug", errors.New("nil map"), codes.Unknown, "kas answers with an error: nil map"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := start(t, &tracker{}, &statuses{err: row.err}, secret).Sync(t.Context(), &railsrpc.SyncRequest{})
			var said *kasapi.Error
			require.ErrorAs(t, err, &said)
			require.Equal(t, row.code, said.Code)
			require.EqualError(t, err, row.says)
		})
	}
}

func TestCommands_SayThatKasIsAway(t *testing.T) {
	c, err := kasapi.NewClient(kasapi.Config{Address: "passthrough:///kas", Secret: secret},
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("refused") }))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.EqualError(t, c.Sync(t.Context(), &railsrpc.SyncRequest{}), "kas cannot be reached")
	_, err = c.Diff(t.Context(), &railsrpc.DiffRequest{})
	require.EqualError(t, err, "kas cannot be reached")
}

package push_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/manifests"
)

func suspend(by string) *agentrpc.Command {
	return &agentrpc.Command{By: by, Command: &agentrpc.Command_Suspend{Suspend: &agentrpc.Suspend{}}}
}

func syncNow() *agentrpc.Command {
	return &agentrpc.Command{By: "ann", Command: &agentrpc.Command_SyncNow{SyncNow: &agentrpc.SyncNow{}}}
}

// command has agent 1 asked in the background.
func (h *harness) command(ctx context.Context, c *agentrpc.Command) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- h.server.Command(ctx, 1, projectPath, c) }()
	return ended
}

// receiveCommand reads the next message, which must be a command.
func (a *agent) receiveCommand() *agentrpc.Command {
	a.t.Helper()
	response, err := a.stream.Recv()
	require.NoError(a.t, err)
	require.NotNil(a.t, response.GetCommand(), "got %v", response)
	return response.GetCommand()
}

func (a *agent) answer(id, problem string) {
	a.t.Helper()
	require.NoError(a.t, a.stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_CommandResult{
		CommandResult: &agentrpc.CommandResult{Id: id, Error: problem},
	}}))
}

// open waits until agent 1 can be sent commands.
func (h *harness) open() {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		if h.board.streams(1) == 0 {
			return errors.New("no stream")
		}
		return nil
	})
}

func TestCommand_IsAnsweredByTheAgent(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()

	ended := h.command(t.Context(), suspend("ann"))
	c := a.receiveCommand()
	assert.Equal(t, "ann", c.GetBy())
	require.NotNil(t, c.GetSuspend())
	a.answer("nobody asked", "")
	require.NoError(t, a.stream.Send(&agentrpc.ConnectRequest{}), "a message that this kas does not know")
	a.answer(c.GetId(), "")
	require.NoError(t, <-ended)

	ended = h.command(t.Context(), suspend("ann"))
	a.answer(a.receiveCommand().GetId(), "no way")
	err := <-ended
	assert.Equal(t, codes.FailedPrecondition, status.Code(err))
	assert.Equal(t, "no way", status.Convert(err).Message())
	assert.Equal(t, 1, h.log.FilterMessage("A person's command was carried out").Len())
	assert.Equal(t, 1, h.log.FilterMessage("A person's command was not carried out").Len())
}

func TestCommand_WithoutAnAgent(t *testing.T) {
	h := start(t)
	assert.Equal(t, codes.Unavailable, status.Code(h.server.Command(t.Context(), 1, projectPath, suspend("ann"))))
	a := h.connect(1)
	h.open()
	err := h.server.Command(t.Context(), 1, "another", suspend("ann"))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.Equal(t, `agent 1 is not connected for project "another"`, status.Convert(err).Message())

	first, second := h.command(t.Context(), suspend("ann")), h.command(t.Context(), suspend("ben"))
	a.receiveCommand()
	a.receiveCommand()
	require.NoError(t, a.stream.CloseSend())
	for _, ended := range []<-chan error{first, second} {
		err := <-ended
		assert.Equal(t, codes.Unavailable, status.Code(err))
		assert.Contains(t, err.Error(), "the connection to the agent was lost")
	}
}

func TestCommand_KeepsItsCallersDeadline(t *testing.T) {
	h := start(t)
	a := h.connect(1)
	h.open()
	ctx, cancel := context.WithCancel(t.Context())
	ended := h.command(ctx, suspend("ann"))
	late := a.receiveCommand()
	cancel()
	assert.Equal(t, codes.Canceled, status.Code(<-ended))
	a.answer(late.GetId(), "too late for anybody")

	ctx, cancel = context.WithTimeout(t.Context(), 1)
	defer cancel()
	assert.Equal(t, codes.DeadlineExceeded, status.Code(h.server.Command(ctx, 1, projectPath, suspend("ann"))))

	ended = h.command(t.Context(), suspend("ben"))
	c := a.receiveCommand()
	assert.Equal(t, "ben", c.GetBy(), "an order that nobody waits for is not sent")
	a.answer(c.GetId(), "")
	require.NoError(t, <-ended)
}

func TestCommand_ManyAtOnceGetTheirOwnAnswers(t *testing.T) {
	const many = 50
	h := start(t)
	a := h.connect(1)
	h.open()
	var g errgroup.Group
	for i := range many {
		g.Go(func() error {
			by := fmt.Sprint("person ", i)
			if err := h.server.Command(t.Context(), 1, projectPath, suspend(by)); status.Convert(err).Message() != by {
				return fmt.Errorf("%s got %w", by, err)
			}
			return nil
		})
	}
	var commands []*agentrpc.Command
	for range many {
		commands = append(commands, a.receiveCommand())
	}
	for _, c := range commands {
		a.answer(c.GetId(), c.GetBy())
	}
	require.NoError(t, g.Wait())
}

func TestCommand_SyncNowComesAfterWhatIsInTheRepositoryNow(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	two := h.repo.commitUnseen("two", map[string]string{"a.yaml": configMap("a", "2")})
	ended := h.command(t.Context(), syncNow())
	assert.Equal(t, two, a.receive().header.GetCommitId(), "without waiting for a poll")
	c := a.receiveCommand()
	require.NotNil(t, c.GetSyncNow())
	a.answer(c.GetId(), "")
	require.NoError(t, <-ended)

	h.repo.breakReading(errors.New("Gitaly is away"))
	ended = h.command(t.Context(), syncNow())
	a.answer(a.receiveCommand().GetId(), "")
	require.NoError(t, <-ended, "what the agent holds can be run again")
}

// compare has agent 1's project compared in the background.
func (h *harness) compare(ref *agentcfg.GitRef) (<-chan error, *[]*railsrpc.DiffResponse) {
	ended := make(chan error, 1)
	var got []*railsrpc.DiffResponse
	go func() {
		ended <- h.server.Compare(h.t.Context(), 1, projectPath, ref, "ann", func(r *railsrpc.DiffResponse) error {
			got = append(got, r)
			return nil
		})
	}()
	return ended, &got
}

func (a *agent) compared(c *agentrpc.Comparison) {
	a.t.Helper()
	require.NoError(a.t, a.stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Comparison{Comparison: c}}))
}

func difference(name string) *syncstatus.Difference {
	return &syncstatus.Difference{Id: &syncstatus.ObjectID{Kind: "ConfigMap", Name: name}, Action: syncstatus.Action_ACTION_CREATED}
}

func branch(name string) *agentcfg.GitRef {
	return &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{Branch: name}}
}

func TestCompare_SendsAnotherRefsSetAndChangesNothingOfWhatIsHeld(t *testing.T) {
	h := start(t)
	one := h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	feature := h.repo.add("feature", map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "2"), "c.yaml": "["})
	a := h.connect(1)
	a.receive()

	ended, got := h.compare(branch("feature"))
	s := a.receive()
	assert.Equal(t, feature, s.header.GetCommitId())
	assert.Equal(t, one, s.header.GetBaseCommitId())
	require.NotEmpty(t, s.header.GetComparisonId())
	assert.Len(t, s.fresh, 1, "only what the agent lacks")
	assert.Len(t, s.refs, 2)
	a.compared(&agentrpc.Comparison{Id: s.header.GetComparisonId(), Differences: []*syncstatus.Difference{difference("b")}, More: true})
	a.compared(&agentrpc.Comparison{Id: s.header.GetComparisonId(), Differences: []*syncstatus.Difference{difference("z")}})
	require.NoError(t, <-ended)
	require.Len(t, *got, 3)
	assert.Equal(t, feature, (*got)[0].GetCommitId())
	assert.Len(t, (*got)[0].GetErrors(), 1)
	assert.Equal(t, "z", (*got)[2].GetDifferences()[0].GetId().GetName())

	// The next set is a delta to what was held before the comparison.
	delete(a.held, manifests.Digest(sha256.Sum256([]byte(s.fresh[0]))))
	h.repo.commit("two", map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "2")})
	next := a.receive()
	assert.Equal(t, one, next.header.GetBaseCommitId())
	assert.Len(t, next.fresh, 1)
}

func TestCompare_OneAtATime(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	ended, _ := h.compare(nil)
	s := a.receive()
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	err := h.server.Compare(ctx, 1, projectPath, nil, "ben", nil)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.Contains(t, err.Error(), "another comparison of this project is still under way")
	a.compared(&agentrpc.Comparison{Id: s.header.GetComparisonId(), Error: "the API server is away"})
	err = <-ended
	assert.Equal(t, codes.FailedPrecondition, status.Code(err))
	assert.Equal(t, "the API server is away", status.Convert(err).Message())
	ended, _ = h.compare(nil)
	a.compared(&agentrpc.Comparison{Id: a.receive().header.GetComparisonId()})
	require.NoError(t, <-ended)
}

func TestCompare_SaysWhatIsWrong(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	for _, row := range []struct {
		name string
		ref  *agentcfg.GitRef
		code codes.Code
		text string
	}{
		{"a branch that does not exist", branch("none"), codes.FailedPrecondition, "the repository has no branch none"},
		{"a ref that names nothing", &agentcfg.GitRef{}, codes.InvalidArgument, "ref: names neither branch, tag nor commit"},
		{"half a commit ID", &agentcfg.GitRef{Ref: &agentcfg.GitRef_Commit{Commit: "abc"}}, codes.InvalidArgument, "is not a full commit ID"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ended, _ := h.compare(row.ref)
			err := <-ended
			assert.Equal(t, row.code, status.Code(err))
			assert.Contains(t, err.Error(), row.text)
		})
	}
	ended, _ := h.compare(nil)
	s := a.receive()
	a.compared(&agentrpc.Comparison{Id: s.header.GetComparisonId(), Differences: []*syncstatus.Difference{{}}})
	assert.Equal(t, codes.Internal, status.Code(<-ended))
	h.stop()
	assert.Equal(t, codes.Unavailable, status.Code(h.server.Compare(t.Context(), 1, projectPath, nil, "ann", func(*railsrpc.DiffResponse) error { return nil })))
}

package push_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
)

// An agentk that does not know what a comparison is would apply the set.
func TestCompare_IsNotAskedOfAnAgentThatWouldApplyIt(t *testing.T) {
	for _, row := range []struct {
		name               string
		capabilities       []agentrpc.Capability
		version            string
		command, compare   codes.Code
		commandSays, wants string
	}{
		{"an agentk that tells no capability is asked nothing", nil, "v0.1.0", codes.FailedPrecondition, codes.FailedPrecondition,
			"agentk v0.1.0 is too old to take commands: update it", "agentk v0.1.0 is too old to compare a commit with the cluster: update it"},
		{"one that knows commands is not asked to compare", []agentrpc.Capability{agentrpc.Capability_CAPABILITY_COMMANDS}, "", codes.OK, codes.FailedPrecondition,
			"", "agentk (of an unknown version) is too old to compare a commit with the cluster: update it"},
		{"one that knows more than this kas is asked", append([]agentrpc.Capability{77}, capabilities...), "v9.0.0", codes.OK, codes.OK, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := start(t)
			h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
			a := h.dial("agent-1")
			a.hello(&agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: projectPath}, Capabilities: row.capabilities, Version: row.version})
			a.receive()

			ended := h.command(t.Context(), suspend("ann"))
			if row.command == codes.OK {
				a.answer(a.receiveCommand().GetId(), "")
			}
			err := <-ended
			assert.Equal(t, row.command, status.Code(err))
			assert.Equal(t, row.commandSays, status.Convert(err).Message())

			ended, _ = h.compare(nil)
			if row.compare == codes.OK {
				a.compared(&agentrpc.Comparison{Id: a.receive().header.GetComparisonId()})
			}
			err = <-ended
			assert.Equal(t, row.compare, status.Code(err))
			assert.Equal(t, row.wants, status.Convert(err).Message())
		})
	}
}

func TestCommand_AnAnswerToSomethingElseIsNone(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	ended := h.command(t.Context(), suspend("ann"))
	a.compared(&agentrpc.Comparison{Id: a.receiveCommand().GetId()})
	assert.Equal(t, codes.Internal, status.Code(<-ended))

	ended, got := h.compare(nil)
	a.answer(a.receive().header.GetComparisonId(), "")
	assert.Equal(t, codes.Internal, status.Code(<-ended))
	assert.Len(t, *got, 1, "the commit alone")
}

func TestCompare_OfManyAgentsIsBounded(t *testing.T) {
	const atOnce, waiting = 8, 64
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	send := func(*railsrpc.DiffResponse) error { return nil }
	var agents []*agent
	for i := range atOnce + 1 {
		a := h.connect(i + 1)
		a.receive()
		agents = append(agents, a)
	}
	var g errgroup.Group
	for i := range atOnce {
		g.Go(func() error { return h.server.Compare(t.Context(), int64(i+1), projectPath, nil, "ann", send) })
	}
	var asked []string
	for i := range atOnce {
		asked = append(asked, agents[i].receive().header.GetComparisonId())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	err := h.server.Compare(ctx, atOnce+1, projectPath, nil, "ben", send)
	assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
	assert.Contains(t, err.Error(), "too many other comparisons are under way")

	// Those who wait are bounded as well.
	ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan error, waiting+1)
	for range waiting + 1 {
		go func() { ended <- h.server.Compare(ctx, atOnce+1, projectPath, nil, "ben", send) }()
	}
	assert.Equal(t, codes.ResourceExhausted, status.Code(<-ended), "one is too many")
	cancel()
	for range waiting {
		<-ended
	}

	for i, id := range asked {
		agents[i].compared(&agentrpc.Comparison{Id: id})
	}
	require.NoError(t, g.Wait())
}

func TestCompare_ACallerWhoDoesNotReadIsGivenUp(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	ctx, cancel := context.WithCancel(t.Context())
	blocked, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	ended := make(chan error, 1)
	go func() {
		ended <- h.server.Compare(ctx, 1, projectPath, nil, "ann", func(*railsrpc.DiffResponse) error {
			close(blocked)
			<-release
			return nil
		})
	}()
	<-blocked
	cancel()
	assert.Equal(t, codes.DeadlineExceeded, status.Code(<-ended))
	ended2, _ := h.compare(nil)
	a.compared(&agentrpc.Comparison{Id: a.receive().header.GetComparisonId()})
	require.NoError(t, <-ended2, "others go on")
}

func TestCompare_AnAnswerThatIsTooLargeEndsTheStream(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	ended, _ := h.compare(nil)
	large := difference("a")
	for i := range 3 {
		large.Fields = append(large.Fields, &syncstatus.FieldDifference{Path: fmt.Sprint(i), Before: string(make([]byte, 1<<20))})
	}
	a.compared(&agentrpc.Comparison{Id: a.receive().header.GetComparisonId(), Differences: []*syncstatus.Difference{large}})
	assert.Equal(t, codes.InvalidArgument, status.Code(a.ending()))
	assert.Equal(t, codes.Unavailable, status.Code(<-ended))
}

func TestConnect_WhatAnAgentSaysOfAContestIsBounded(t *testing.T) {
	h := start(t)
	h.repo.commit("one", map[string]string{"a.yaml": configMap("a", "1")})
	a := h.connect(1)
	a.receive()
	long := strings.Repeat("x", 10_000)
	contest := &syncstatus.Contest{}
	for range 30 {
		contest.Contenders = append(contest.Contenders, &syncstatus.Contender{Manager: long, Fields: slices.Repeat([]string{"f"}, 200)})
	}
	a.report(&agentrpc.Report{Reset_: true, Objects: []*syncstatus.ObjectStatus{
		{Id: &syncstatus.ObjectID{Kind: "ConfigMap", Name: "a"}, Contest: contest},
	}})
	testkit.Eventually(t, func() error {
		if len(h.board.reported(1)) == 0 {
			return errors.New("no report")
		}
		return nil
	})
	got := h.board.reported(1)[0].GetObjects()[0].GetContest().GetContenders()
	require.Len(t, got, 20)
	assert.Less(t, len(got[0].GetManager()), 5000)
	assert.Len(t, got[0].GetFields(), 100)
}

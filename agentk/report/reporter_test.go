package report_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Unix(1_700_000_000, 0)

func status(name string, action gitops.Action, health gitops.Health) gitops.ObjectStatus {
	return gitops.ObjectStatus{
		ID:      inventory.ID{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, Namespace: "ns", Name: name},
		Version: "v1", Action: action, Health: health, Position: manifests.Position{Path: name + ".yaml", Line: 1},
	}
}

func good(total int) report.Outcome {
	return report.Outcome{Result: gitops.Result{Total: total}, Complete: true}
}

// line is a stream whose far end takes reports one at a time.
type line struct {
	sent   chan *agentrpc.Report
	cancel context.CancelFunc
	ended  chan error
}

// open starts streaming r.
func open(t *testing.T, r *report.Reporter) *line {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &line{sent: make(chan *agentrpc.Report), cancel: cancel, ended: make(chan error, 1)}
	go func() {
		l.ended <- r.Stream(ctx, func(report *agentrpc.Report) error {
			select {
			case l.sent <- report:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	t.Cleanup(cancel)
	return l
}

func (l *line) close(t *testing.T) {
	t.Helper()
	l.cancel()
	require.ErrorIs(t, <-l.ended, context.Canceled)
}

// next returns the next report, having let the interval pass.
func (l *line) next(t *testing.T, clk *clocktesting.FakeClock) *agentrpc.Report {
	t.Helper()
	for {
		select {
		case r := <-l.sent:
			return r
		case <-time.After(time.Millisecond):
			clk.Step(report.DefaultInterval)
		case <-t.Context().Done():
			t.Fatal("no report came")
		}
	}
}

func names(r *agentrpc.Report) []string {
	var names []string
	for _, o := range r.GetObjects() {
		names = append(names, o.GetId().GetName())
	}
	for _, id := range r.GetRemoved() {
		names = append(names, "-"+id.GetName())
	}
	return names
}

func newReporter() (*report.Reporter, *clocktesting.FakeClock) {
	clk := clocktesting.NewFakeClock(start)
	return report.New(report.Config{Clock: clk}), clk
}

func TestReporter_TellsOfASync(t *testing.T) {
	r, clk := newReporter()
	l := open(t, r)
	first := l.next(t, clk)
	require.True(t, first.GetReset_())
	require.Equal(t, syncstatus.State_STATE_PENDING, first.GetState())

	r.Syncing("c1")
	r.Object(status("a", gitops.ActionPending, gitops.HealthUnknown))
	r.Object(status("a", gitops.ActionCreated, gitops.HealthInProgress))
	r.Object(status("b", gitops.ActionCreated, gitops.HealthCurrent))
	got := &agentrpc.Report{}
	for len(got.GetObjects()) < 2 { // the first change went out at once
		proto.Merge(got, l.next(t, clk))
	}
	require.False(t, got.GetReset_())
	require.Equal(t, "c1", got.GetCommitId())
	require.Equal(t, syncstatus.State_STATE_SYNCING, got.GetState())
	require.Empty(t, got.GetAppliedCommitId())

	applied := clk.Now()
	r.Ran(good(2))
	got = l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_PROGRESSING, got.GetState())
	require.Equal(t, "c1", got.GetAppliedCommitId())
	require.Equal(t, applied.UnixNano(), got.GetAppliedAt().AsTime().UnixNano())
	require.Nil(t, got.GetReadyAt())

	r.Health(true, nil)
	got = l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_SYNCED, got.GetState())
	require.NotNil(t, got.GetReadyAt())
	require.Empty(t, got.GetObjects(), "what did not change is not sent again")
	l.close(t)
}

func TestReporter_CoalescesWhileTheStreamIsBlocked(t *testing.T) {
	r, clk := newReporter()
	l := open(t, r)
	l.next(t, clk)
	r.Syncing("c1")
	for i := range 1000 {
		r.Object(gitops.ObjectStatus{ID: status("a", 0, 0).ID, Action: gitops.ActionConfigured, Message: fmt.Sprint(i)})
	}
	r.Object(status("b", gitops.ActionPruning, gitops.HealthTerminating))
	r.Removed(status("b", 0, 0).ID)
	reports := 0
	var last *agentrpc.Report
	for last == nil || len(last.GetObjects()) == 0 || last.GetObjects()[0].GetMessage() != "999" {
		last = l.next(t, clk)
		reports++
	}
	require.LessOrEqual(t, reports, 3)
	l.close(t)
}

func TestReporter_WaitsTheIntervalBetweenReports(t *testing.T) {
	r, clk := newReporter()
	l := open(t, r)
	<-l.sent // at once
	testkit.Eventually(t, func() error {
		if !clk.HasWaiters() {
			return errors.New("not waiting")
		}
		return nil
	})
	r.Syncing("c1")
	clk.Step(report.DefaultInterval - 1)
	require.True(t, clk.HasWaiters(), "one nanosecond is missing")
	select {
	case <-l.sent:
		t.Fatal("too early")
	default:
	}
	clk.Step(1)
	require.Equal(t, "c1", (<-l.sent).GetCommitId())
	l.close(t)
}

func TestReporter_NewStreamStartsWithEverything(t *testing.T) {
	r, clk := newReporter()
	r.Syncing("c1")
	r.Object(status("b", gitops.ActionCreated, gitops.HealthCurrent))
	r.Object(status("a", gitops.ActionCreated, gitops.HealthCurrent))
	r.Object(status("x", gitops.ActionCreated, gitops.HealthCurrent))
	r.Removed(status("x", 0, 0).ID)
	for range 2 {
		l := open(t, r)
		got := l.next(t, clk)
		require.True(t, got.GetReset_())
		require.False(t, got.GetMore())
		require.Equal(t, []string{"a", "b"}, names(got))
		l.close(t)
	}
	r.Object(status("c", gitops.ActionCreated, gitops.HealthCurrent))
	l := open(t, r)
	require.Equal(t, []string{"a", "b", "c"}, names(l.next(t, clk)))
	r.Removed(status("a", 0, 0).ID)
	require.Equal(t, []string{"-a"}, names(l.next(t, clk)))
	l.close(t)
}

func TestReporter_ForgetsWhatARunDidNotMention(t *testing.T) {
	r, clk := newReporter()
	r.Syncing("c1")
	r.Object(status("kept", gitops.ActionCreated, gitops.HealthCurrent))
	r.Object(status("failed", gitops.ActionFailed, gitops.HealthNotFound))
	r.Ran(report.Outcome{Result: gitops.Result{Total: 2, Failed: 1}, Complete: true})
	l := open(t, r)
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_PARTIAL, got.GetState())
	require.Equal(t, "1 of 2 objects failed: ConfigMap ns/failed (failed.yaml:1)", got.GetMessage())
	require.Empty(t, got.GetAppliedCommitId())

	r.Syncing("c2")
	r.Object(status("kept", gitops.ActionCreated, gitops.HealthCurrent)) // as before
	r.Ran(good(1))
	for len(names(got)) != 1 {
		got = l.next(t, clk)
	}
	require.Equal(t, []string{"-failed"}, names(got))
	require.Equal(t, "c2", got.GetAppliedCommitId())
	require.Equal(t, map[gitops.Action]int{gitops.ActionCreated: 1}, r.Actions())
	l.close(t)
}

// kas may have been started anew while nothing happens here.
func TestReporter_TellsEverythingToANewStreamAlsoWhileSuspended(t *testing.T) {
	r, clk := newReporter()
	r.Syncing("c1")
	r.Object(status("a", gitops.ActionCreated, gitops.HealthCurrent))
	r.Ran(good(1))
	r.Health(true, nil)
	r.Suspended(&report.Suspension{By: "ann", At: start})
	for range 2 {
		l := open(t, r)
		got := l.next(t, clk)
		require.True(t, got.GetReset_())
		require.Equal(t, syncstatus.State_STATE_SUSPENDED, got.GetState())
		require.Equal(t, "c1", got.GetCommitId())
		require.Len(t, got.GetObjects(), 1)
		l.close(t)
	}
}

func TestReporter_TellsWhenARunEndedAlsoOneThatChangedNothing(t *testing.T) {
	r, clk := newReporter()
	run := func() {
		r.Syncing("c1")
		r.Object(status("a", gitops.ActionUnchanged, gitops.HealthCurrent))
		r.Ran(good(1))
	}
	run()
	l := open(t, r)
	first := l.next(t, clk)
	require.Equal(t, first.GetAppliedAt().AsTime(), first.GetRanAt().AsTime())
	clk.Step(time.Minute)
	run()
	second := l.next(t, clk)
	require.Equal(t, first.GetAppliedAt().AsTime(), second.GetAppliedAt().AsTime())
	require.True(t, second.GetRanAt().AsTime().After(first.GetRanAt().AsTime()))
	l.close(t)
}

func TestReporter_RetryOfACommitIsNoNews(t *testing.T) {
	r, clk := newReporter()
	r.Syncing("c1")
	r.Ran(good(0))
	r.Health(true, nil)
	r.Syncing("c1")
	l := open(t, r)
	require.Equal(t, syncstatus.State_STATE_SYNCED, l.next(t, clk).GetState(), "a second run of the same set")
	r.Trouble("waiting")
	require.Equal(t, "waiting", l.next(t, clk).GetMessage())
	r.Ran(good(0))
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_SYNCED, got.GetState())
	require.Empty(t, got.GetMessage())
	r.Refused("too large")
	require.Equal(t, syncstatus.State_STATE_FAILED, l.next(t, clk).GetState())
	r.Refused("")
	require.Equal(t, syncstatus.State_STATE_SYNCED, l.next(t, clk).GetState())
	l.close(t)
}

func TestReporter_RetryOfACommitKeepsWhatWasDoneForIt(t *testing.T) {
	r, _ := newReporter()
	r.Syncing("c1")
	r.Object(status("made", gitops.ActionCreated, gitops.HealthCurrent))
	r.Object(status("changed", gitops.ActionConfigured, gitops.HealthCurrent))
	r.Object(status("broken", gitops.ActionFailed, gitops.HealthNotFound))
	r.Ran(report.Outcome{Result: gitops.Result{Total: 3, Failed: 1}, Complete: true})
	retry := func(commit string) map[string]syncstatus.Action {
		r.Syncing(commit)
		r.Object(status("made", gitops.ActionPending, gitops.HealthCurrent))
		r.Object(status("made", gitops.ActionUnchanged, gitops.HealthCurrent))
		r.Object(status("changed", gitops.ActionUnchanged, gitops.HealthFailed))
		r.Object(status("broken", gitops.ActionCreated, gitops.HealthCurrent))
		r.Ran(good(3))
		l := open(t, r)
		got := map[string]syncstatus.Action{}
		for _, o := range (<-l.sent).GetObjects() {
			got[o.GetId().GetName()] = o.GetAction()
		}
		l.close(t)
		return got
	}
	require.Equal(t, map[string]syncstatus.Action{
		"made": syncstatus.Action_ACTION_CREATED, "changed": syncstatus.Action_ACTION_CONFIGURED,
		"broken": syncstatus.Action_ACTION_CREATED,
	}, retry("c1"))
	require.Equal(t, map[gitops.Action]int{gitops.ActionUnchanged: 2, gitops.ActionCreated: 1}, r.Actions(),
		"what the newest run did")
	require.Equal(t, map[string]syncstatus.Action{
		"made": syncstatus.Action_ACTION_UNCHANGED, "changed": syncstatus.Action_ACTION_UNCHANGED,
		"broken": syncstatus.Action_ACTION_CREATED,
	}, retry("c2"))
}

func TestReporter_NamesWhatThePolicyForbidsAndNotWhatIsKept(t *testing.T) {
	r, clk := newReporter()
	kept := status("kept", gitops.ActionSkipped, gitops.HealthCurrent)
	kept.Position, kept.Message = manifests.Position{}, "left the repository, not deleted: prune is off"
	foreign := status("foreign", gitops.ActionSkipped, gitops.HealthCurrent)
	foreign.Message = "set inventory_policy: adopt_all"
	r.Syncing("c1")
	r.Object(kept)
	r.Object(foreign)
	r.Object(status("fine", gitops.ActionCreated, gitops.HealthCurrent))
	r.Ran(report.Outcome{Result: gitops.Result{Total: 2, Failed: 1}, Complete: true})
	r.Health(true, nil)
	l := open(t, r)
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_PARTIAL, got.GetState())
	require.Equal(t, "1 of 2 objects failed: ConfigMap ns/foreign (foreign.yaml:1): set inventory_policy: adopt_all", got.GetMessage())
	l.close(t)
}

func TestReporter_TellsLateDeletionsFromLateObjects(t *testing.T) {
	r, clk := newReporter()
	held := status("held", gitops.ActionPruning, gitops.HealthTerminating)
	held.Message = "being deleted, held by finalizer example.com/hold"
	slow := status("slow", gitops.ActionCreated, gitops.HealthInProgress)
	r.Syncing("c1")
	r.Object(held)
	r.Object(slow)
	r.Ran(good(1))
	r.Health(false, []inventory.ID{slow.ID, held.ID})
	l := open(t, r)
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_PARTIAL, got.GetState())
	require.Equal(t, "1 object not healthy in time: ConfigMap ns/slow; "+
		"1 object not deleted in time: ConfigMap ns/held, being deleted, held by finalizer example.com/hold", got.GetMessage())
	l.close(t)
}

func TestReporter_TellsOfAContestUntilItIsOver(t *testing.T) {
	r, clk := newReporter()
	r.Syncing("c1")
	fought := status("fought", gitops.ActionConfigured, gitops.HealthCurrent)
	fought.Contest = &gitops.Contest{
		Contenders: []gitops.Contender{{Manager: "hpa", Fields: []string{".a", ".b", ".c", ".d"}}}, Heals: 3, Since: start,
	}
	deleted := status("deleted", gitops.ActionCreated, gitops.HealthCurrent)
	deleted.Contest = &gitops.Contest{Heals: 4, Since: start}
	r.Object(fought)
	r.Object(deleted)
	r.Ran(good(2))
	r.Health(true, nil)

	l := open(t, r)
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_PARTIAL, got.GetState())
	require.Equal(t, "somebody else keeps changing 2 objects: ConfigMap ns/deleted (changed or deleted by somebody 4 times), "+
		"ConfigMap ns/fought (hpa sets .a, .b, .c)", got.GetMessage())
	contests := map[string]*syncstatus.Contest{}
	for _, o := range got.GetObjects() {
		contests[o.GetId().GetName()] = o.GetContest()
	}
	require.True(t, proto.Equal(&syncstatus.Contest{
		Contenders: []*syncstatus.Contender{{Manager: "hpa", Fields: []string{".a", ".b", ".c", ".d"}}},
		Heals:      3, Since: timestamppb.New(start),
	}, contests["fought"]))
	require.Empty(t, contests["deleted"].GetContenders())

	fought.Contest = nil
	r.Object(fought)
	r.Removed(deleted.ID)
	for got.GetState() != syncstatus.State_STATE_SYNCED {
		got = l.next(t, clk)
	}
	l.close(t)
}

func TestReporter_CutsALongReport(t *testing.T) {
	r, clk := newReporter()
	r.Syncing("c1")
	const n = 3000
	for i := range n {
		s := status(fmt.Sprintf("object-%04d", i), gitops.ActionFailed, gitops.HealthUnknown)
		s.Message = strings.Repeat("é", 3000) + "\xff" // longer than is sent, and not UTF-8
		r.Object(s)
	}
	l := open(t, r)
	seen := 0
	for {
		got := l.next(t, clk)
		require.True(t, got.GetReset_())
		require.Equal(t, "c1", got.GetCommitId())
		require.LessOrEqual(t, proto.Size(got), grpctool.ChunkSize)
		for _, o := range got.GetObjects() {
			require.Less(t, len(o.GetMessage()), 4200)
		}
		seen += len(got.GetObjects())
		if !got.GetMore() {
			break
		}
	}
	require.Equal(t, n, seen)
	l.close(t)
}

func TestReporter_StreamEndsWithSendsError(t *testing.T) {
	r, _ := newReporter()
	broken := errors.New("broken")
	require.ErrorIs(t, r.Stream(t.Context(), func(*agentrpc.Report) error { return broken }), broken)
}

func TestReporter_ReportsOfAnotherStateArePartOfTheTrace(t *testing.T) {
	r, clk := newReporter()
	l := open(t, r)
	require.Empty(t, l.next(t, clk).GetTraceparent(), "nothing is traced yet")

	r.Traced("c1", "trace")
	r.Syncing("c1")
	require.Equal(t, "trace", l.next(t, clk).GetTraceparent())
	r.Object(status("a", gitops.ActionCreated, gitops.HealthInProgress))
	require.Empty(t, l.next(t, clk).GetTraceparent(), "it is syncing still")
	r.Ran(good(1))
	require.Equal(t, "trace", l.next(t, clk).GetTraceparent(), "it is progressing")
	r.Health(true, nil)
	r.Untraced()
	last := l.next(t, clk)
	require.Equal(t, "trace", last.GetTraceparent(), "what was said before is part of it")
	require.Equal(t, syncstatus.State_STATE_SYNCED, last.GetState())
	r.Health(false, nil)
	require.Empty(t, l.next(t, clk).GetTraceparent(), "it is over")

	r.Traced("c2", "other")
	r.Health(true, nil)
	require.Empty(t, l.next(t, clk).GetTraceparent(), "it is about the commit before")
	r.Untraced()
	r.Syncing("c2")
	require.Empty(t, l.next(t, clk).GetTraceparent(), "there was nothing to be said when it ended")
	l.close(t)
}

func TestReporter_TheTraceIsToldToAStreamThatOpensLater(t *testing.T) {
	r, clk := newReporter()
	r.Traced("c1", "trace")
	r.Syncing("c1")
	r.Ran(good(1))
	r.Health(true, nil)
	r.Untraced()
	l := open(t, r)
	require.Equal(t, "trace", l.next(t, clk).GetTraceparent())
	l.close(t)
	l = open(t, r)
	require.Empty(t, l.next(t, clk).GetTraceparent(), "it is over")
	l.close(t)
}

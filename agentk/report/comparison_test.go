package report_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/agentk/report"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/inventory"
)

func TestComparisons_AreCutIntoMessages(t *testing.T) {
	var differences []gitops.Difference
	for i := range 40 {
		d := gitops.Difference{ID: status(fmt.Sprint(i), 0, 0).ID, Action: gitops.ActionConfigured}
		d.Fields = []gitops.FieldDifference{{Path: ".data.k", Before: "\xff", After: strings.Repeat("x", 100_000)}}
		differences = append(differences, d)
	}
	parts := report.Comparisons("q", differences)
	require.Greater(t, len(parts), 3)
	n := 0
	for i, part := range parts {
		require.Equal(t, "q", part.GetId())
		require.Equal(t, i < len(parts)-1, part.GetMore())
		require.LessOrEqual(t, proto.Size(part), grpctool.ChunkSize)
		for _, d := range part.GetDifferences() {
			require.Equal(t, fmt.Sprint(n), d.GetId().GetName())
			require.Equal(t, syncstatus.Action_ACTION_CONFIGURED, d.GetAction())
			require.Equal(t, "\uFFFD", d.GetFields()[0].GetBefore())
			n++
		}
	}
	require.Equal(t, 40, n)
	require.Len(t, report.Comparisons("q", nil), 1, "no difference is an answer, too")
}

func TestReporter_SuspendedSaysWhoAndSince(t *testing.T) {
	clk := clocktesting.NewFakeClock(start)
	r := report.New(report.Config{Clock: clk})
	l := open(t, r)
	defer l.close(t)
	require.Equal(t, syncstatus.State_STATE_PENDING, l.next(t, clk).GetState())
	r.Suspended(&report.Suspension{By: "ann", At: start})
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_SUSPENDED, got.GetState())
	require.Equal(t, "ann", got.GetSuspension().GetBy())
	require.Equal(t, start.UTC(), got.GetSuspension().GetAt().AsTime())
	require.Equal(t, "suspended by ann since "+start.UTC().Format(time.DateTime)+" UTC: nothing is applied, healed or deleted until it is resumed", got.GetMessage())
	r.Suspended(nil)
	got = l.next(t, clk)
	require.Nil(t, got.GetSuspension())
	require.Equal(t, syncstatus.State_STATE_PENDING, got.GetState())
}

func TestReporter_HeldPruneShowsTheFirst(t *testing.T) {
	clk := clocktesting.NewFakeClock(start)
	r := report.New(report.Config{Clock: clk})
	r.Syncing("c1")
	outcome := good(0)
	for i := range 120 {
		outcome.Held = append(outcome.Held, inventory.ID{Name: fmt.Sprintf("%03d", i)})
	}
	outcome.HeldBack = "too many"
	r.Ran(outcome)
	l := open(t, r)
	defer l.close(t)
	got := l.next(t, clk)
	require.Equal(t, syncstatus.State_STATE_PARTIAL, got.GetState())
	require.Equal(t, "c1", got.GetHeldPrune().GetCommitId())
	require.EqualValues(t, 120, got.GetHeldPrune().GetTotal())
	require.Len(t, got.GetHeldPrune().GetObjects(), 100)
	require.Equal(t, "too many", got.GetHeldPrune().GetReason())
	commit, n := r.Held()
	require.Equal(t, "c1", commit)
	require.Equal(t, 120, n)
	r.Syncing("c2")
	_, n = r.Held()
	require.Zero(t, n, "of another commit nothing is known yet")
	require.Nil(t, l.next(t, clk).GetHeldPrune())
}

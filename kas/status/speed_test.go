package status

import (
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// measured is how many values there are, and their sum in seconds.
func measured(t *testing.T, s *Store) []float64 {
	t.Helper()
	var all []float64
	for _, h := range []interface{ Write(*dto.Metric) error }{s.speed.applied, s.speed.ready} {
		m := &dto.Metric{}
		if err := h.Write(m); err != nil {
			t.Fatal(err)
		}
		all = append(all, float64(m.GetHistogram().GetSampleCount()), m.GetHistogram().GetSampleSum())
	}
	return all
}

func TestSpeed_FromDetectedToAppliedAndReady(t *testing.T) {
	store, clock := newStore(t, nil)
	want := func(when string, applied, appliedSum, ready, readySum float64) {
		t.Helper()
		if got := measured(t, store); !slices.Equal(got, []float64{applied, appliedSum, ready, readySum}) {
			t.Errorf("%s: measured %v", when, got)
		}
	}
	detect := func(commit string) {
		source := sourceOf(commit)
		source.Times.DetectedAt = timestamppb.New(clock.Now())
		store.Source(seven, staging, source)
	}
	report := func(commit, applied string, ready bool) {
		r := &agentrpc.Report{CommitId: commit, AppliedCommitId: applied, State: syncstatus.State_STATE_SYNCED}
		if ready {
			r.ReadyAt = timestamppb.New(epoch.Add(-time.Hour)) // by the agent's clock
		}
		store.Report(seven, staging, r)
	}
	syncTo(store, "c1", "x")
	want("what was applied before the agent came", 0, 0, 0, 0)

	clock.Step(time.Minute)
	detect("c2")
	clock.Step(2 * time.Second)
	report("c2", "c1", false)
	want("it is about to", 0, 0, 0, 0)
	clock.Step(time.Second)
	report("c2", "c2", false)
	want("it is applied", 1, 3, 0, 0)
	clock.Step(4 * time.Second)
	report("c2", "c2", true)
	want("it is ready", 1, 3, 1, 7)
	report("c2", "c2", false)
	report("c2", "c2", true)
	want("it is ready again, after drift", 1, 3, 1, 7)

	detect("c3")
	detect("c4")
	clock.Step(time.Second)
	report("c3", "c3", true)
	want("another one is wanted by now", 1, 3, 1, 7)
	clock.Step(time.Second)
	report("c4", "c4", true)
	want("all at once", 2, 5, 2, 9)

	// It was away when the commit was detected.
	store.Disconnected(seven, staging)
	detect("c5")
	clock.Step(time.Hour)
	store.Connected(seven, staging)
	report("c5", "c4", false)
	report("c5", "c5", true)
	want("who was away counts for nothing", 2, 5, 2, 9)
}

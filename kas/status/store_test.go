package status

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	seven = gitlabapi.AgentInfo{AgentID: 7, AgentName: "seven"}
)

const staging = "platform/staging"

func newStore(t *testing.T, poster Poster) (*Store, *clocktesting.FakeClock) {
	t.Helper()
	clock := clocktesting.NewFakeClock(epoch)
	store, err := New(Config{Clock: clock}, poster, testkit.Logger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return store, clock
}

func object(name string, action syncstatus.Action, health syncstatus.Health) *syncstatus.ObjectStatus {
	return &syncstatus.ObjectStatus{
		Id:     &syncstatus.ObjectID{Kind: "ConfigMap", Namespace: "default", Name: name},
		Action: action, Health: health,
	}
}

func healthy(names ...string) []*syncstatus.ObjectStatus {
	var all []*syncstatus.ObjectStatus
	for _, name := range names {
		all = append(all, object(name, syncstatus.Action_ACTION_CREATED, syncstatus.Health_HEALTH_CURRENT))
	}
	return all
}

func sourceOf(commit string) *syncstatus.ProjectStatus {
	return &syncstatus.ProjectStatus{
		ProjectPath: staging, Ref: "branch main", WantedCommit: commit,
		Times: &syncstatus.Times{DetectedAt: timestamppb.New(epoch), SentAt: timestamppb.New(epoch.Add(time.Second))},
	}
}

func reportOf(commit string, objects ...*syncstatus.ObjectStatus) *agentrpc.Report {
	return &agentrpc.Report{
		CommitId: commit, AppliedCommitId: commit, State: syncstatus.State_STATE_SYNCED,
		AppliedAt: timestamppb.New(epoch.Add(2 * time.Second)), Reset_: true, Objects: objects,
	}
}

// sync brings agent seven's project to SYNCED at a commit.
func syncTo(store *Store, commit string, names ...string) {
	store.Arrived(seven)
	store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "cfg"}, []string{staging})
	store.Connected(seven, staging)
	store.Source(seven, staging, sourceOf(commit))
	store.Report(seven, staging, reportOf(commit, healthy(names...)...))
}

func mustGet(t *testing.T, store *Store) *syncstatus.ProjectStatus {
	t.Helper()
	got, ok := store.Get(t.Context(), 7, staging)
	if !ok {
		t.Fatal("the project is not known")
	}
	return got
}

func names(p *syncstatus.ProjectStatus) []string {
	var all []string
	for _, o := range p.GetObjects() {
		all = append(all, o.GetId().GetName())
	}
	return all
}

func TestStore_PutsGitAndAgentTogether(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "b", "a")
	want := &syncstatus.ProjectStatus{
		AgentId: 7, AgentName: "seven", ProjectId: staging, ProjectPath: staging,
		State: syncstatus.State_STATE_SYNCED, Ref: "branch main", WantedCommit: "c1", AppliedCommit: "c1",
		Times: &syncstatus.Times{
			DetectedAt: timestamppb.New(epoch), SentAt: timestamppb.New(epoch.Add(time.Second)),
			AppliedAt: timestamppb.New(epoch.Add(2 * time.Second)),
		},
		Counts:    &syncstatus.Counts{Total: 2, Created: 2},
		Connected: true, UpdatedAt: timestamppb.New(epoch), Objects: healthy("a", "b"),
	}
	if diff := cmp.Diff(want, mustGet(t, store), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	list, configuration := store.List(t.Context(), 7)
	want.Objects = nil
	if diff := cmp.Diff([]*syncstatus.ProjectStatus{want}, list, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if configuration.GetCommitId() != "cfg" {
		t.Errorf("got configuration %v", configuration)
	}
}

func TestStore_ShowsSuspensionAndHeldPruneAsLongAsTheAgentDoes(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	report := reportOf("c1", healthy("a")...)
	report.State, report.Message = syncstatus.State_STATE_SUSPENDED, "suspended by ann"
	report.Suspension = &syncstatus.Suspension{By: "ann", At: timestamppb.New(epoch)}
	report.HeldPrune = &syncstatus.HeldPrune{CommitId: "c1", Total: 12, Objects: []*syncstatus.ObjectID{{Kind: "ConfigMap", Name: "a"}}}
	store.Report(seven, staging, report)
	store.Source(seven, staging, sourceOf("c2"))
	got := mustGet(t, store)
	if got.GetState() != syncstatus.State_STATE_SUSPENDED || got.GetWantedCommit() != "c2" || got.GetAppliedCommit() != "c1" {
		t.Errorf("got %v", got)
	}
	if diff := cmp.Diff(report.GetSuspension(), got.GetSuspension(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(report.GetHeldPrune(), got.GetHeldPrune(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}

	// The agent is restarted, and looks at nothing.
	store.Report(seven, staging, &agentrpc.Report{
		State: syncstatus.State_STATE_SUSPENDED, Message: "still suspended by ann", Suspension: report.GetSuspension(), Reset_: true,
	})
	got = mustGet(t, store)
	if got.GetMessage() != "still suspended by ann" || got.GetAppliedCommit() != "c1" || len(got.GetObjects()) != 1 || got.GetHeldPrune() == nil {
		t.Errorf("after a restart, got %v", got)
	}

	store.Report(seven, staging, reportOf("c2", healthy("a")...))
	if got := mustGet(t, store); got.GetSuspension() != nil || got.GetHeldPrune() != nil {
		t.Errorf("got %v", got)
	}
}

func TestStore_MergesReports(t *testing.T) {
	more := func(r *agentrpc.Report) *agentrpc.Report { r.More = true; return r }
	delta := func(r *agentrpc.Report, removed ...string) *agentrpc.Report {
		r.Reset_ = false
		for _, name := range removed {
			r.Removed = append(r.Removed, &syncstatus.ObjectID{Kind: "ConfigMap", Namespace: "default", Name: name})
		}
		return r
	}
	for name, row := range map[string]struct {
		reports []*agentrpc.Report
		want    []string
	}{
		"a delta adds and removes": {
			[]*agentrpc.Report{reportOf("c1", healthy("a", "b")...), delta(reportOf("c1", healthy("c")...), "a", "never")},
			[]string{"b", "c"},
		},
		"a reset replaces": {
			[]*agentrpc.Report{reportOf("c1", healthy("a", "b")...), reportOf("c1", healthy("c")...)}, []string{"c"},
		},
		"parts count when the last has come": {
			[]*agentrpc.Report{reportOf("c1", healthy("a")...), more(reportOf("c1", healthy("b")...))}, []string{"a"},
		},
		"parts make one report": {
			[]*agentrpc.Report{reportOf("c1", healthy("a")...), more(reportOf("c1", healthy("b")...)), reportOf("c1", healthy("c")...)},
			[]string{"b", "c"},
		},
		"a delta that was cut short by a reset is void": {
			[]*agentrpc.Report{more(delta(reportOf("c1", healthy("a")...))), reportOf("c1", healthy("b")...)}, []string{"b"},
		},
		"a delta first, from an agent that breaks the rule, is taken": {
			[]*agentrpc.Report{delta(reportOf("c1", healthy("a")...))}, []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := newStore(t, nil)
			syncTo(store, "c1", "zero")
			for _, r := range row.reports {
				store.Report(seven, staging, proto.CloneOf(r))
			}
			want := row.want
			if !row.reports[0].GetReset_() && !row.reports[0].GetMore() {
				want = append(want, "zero")
			}
			if diff := cmp.Diff(want, names(mustGet(t, store))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStore_BoundsTheObjectsOfAProject(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1")
	first := reportOf("c1")
	for i := range MaxObjects {
		first.Objects = append(first.Objects, healthy(fmt.Sprint(i))...)
	}
	store.Report(seven, staging, first)
	second := reportOf("c1", healthy("one-more")...)
	second.Reset_ = false
	store.Report(seven, staging, second)
	got := mustGet(t, store)
	if len(got.GetObjects()) != MaxObjects || got.GetMessage() != "1 more objects are not shown" {
		t.Errorf("got %d objects, %q", len(got.GetObjects()), got.GetMessage())
	}
}

func TestStore_OldTimesAreNotThoseOfANewCommit(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	store.Source(seven, staging, sourceOf("c2"))
	got := mustGet(t, store)
	if got.GetTimes().GetAppliedAt() != nil || got.GetAppliedCommit() != "c1" || got.GetState() != syncstatus.State_STATE_SYNCING {
		t.Errorf("got %v", got)
	}
}

func TestStore_CommitLastSeenStaysWantedWhileGitFails(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	store.Source(seven, staging, &syncstatus.ProjectStatus{State: syncstatus.State_STATE_FAILED, Message: "Gitaly is away"})
	got := mustGet(t, store)
	if got.GetWantedCommit() != "c1" || got.GetTimes().GetSentAt() == nil || got.GetMessage() != "Gitaly is away" ||
		got.GetState() != syncstatus.State_STATE_PARTIAL {
		t.Errorf("got %v", got)
	}
}

func TestStore_AgentThatReconnectsIsNotOffline(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	store.Connected(seven, staging) // the new stream comes before the old one has ended
	store.Disconnected(seven, staging)
	if got := mustGet(t, store); got.GetState() != syncstatus.State_STATE_SYNCED || !got.GetConnected() {
		t.Errorf("got %v", got)
	}
	store.Disconnected(seven, staging)
	if got := mustGet(t, store); got.GetState() != syncstatus.State_STATE_OFFLINE || got.GetConnected() {
		t.Errorf("got %v", got)
	}
}

func TestStore_ProjectThatLeavesTheConfigurationIsGone(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "cfg2"}, []string{"other"})
	if _, ok := store.Get(t.Context(), 7, staging); ok {
		t.Error("the project is still there")
	}
	// Its stream is still open for a moment, and must not bring it back.
	store.Source(seven, staging, sourceOf("c2"))
	store.Report(seven, staging, reportOf("c2"))
	store.Disconnected(seven, staging)
	if _, ok := store.Get(t.Context(), 7, staging); ok {
		t.Error("the project came back")
	}
	list, _ := store.List(t.Context(), 7)
	if len(list) != 1 || list[0].GetProjectId() != "other" || list[0].GetState() != syncstatus.State_STATE_PENDING {
		t.Errorf("got %v", list)
	}
	store.Configuration(seven, &syncstatus.ConfigurationStatus{Error: &syncstatus.FileError{Message: "broken"}}, nil)
	if list, cfg := store.List(t.Context(), 7); len(list) != 1 || cfg.GetError().GetMessage() != "broken" {
		t.Errorf("a broken file changed the projects: %v, %v", list, cfg)
	}
}

func TestStore_BoundsTheProjectsOfAnAgentOfUnknownConfiguration(t *testing.T) {
	store, _ := newStore(t, &fakeRails{})
	for i := range maxUnconfigured + 10 {
		store.Source(seven, fmt.Sprint("p", i), sourceOf("c1"))
		store.Connected(seven, fmt.Sprint("p", i))
		store.Disconnected(seven, fmt.Sprint("p", i))
	}
	if all, _ := store.List(t.Context(), seven.AgentID); len(all) != maxUnconfigured {
		t.Errorf("%d projects are kept", len(all))
	}
	store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "g1"}, []string{"p1", "z"})
	if _, ok := store.Get(t.Context(), seven.AgentID, "z"); !ok {
		t.Error("a project that is configured is not kept")
	}
}

func TestStore_ForgetsAgentsThatAreLongGone(t *testing.T) {
	store, clock := newStore(t, nil)
	syncTo(store, "c1", "a")
	clock.Step(2 * DefaultKeepOffline)
	store.sweep(clock.Now().Add(-DefaultKeepOffline))
	if _, ok := store.Get(t.Context(), 7, staging); !ok {
		t.Error("an agent that is there was forgotten")
	}
	store.Disconnected(seven, staging)
	store.Left(seven)
	clock.Step(2 * DefaultKeepOffline)
	store.sweep(clock.Now().Add(-DefaultKeepOffline))
	if len(store.agents) != 0 {
		t.Errorf("kept %v", store.agents)
	}
}

func TestStore_WatchTellsTheNewest(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var seen []string
	entered, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- store.Watch(ctx, 7, "", func(p *syncstatus.ProjectStatus) error {
			mu.Lock()
			seen = append(seen, p.GetProjectId()+" "+p.GetWantedCommit())
			first := len(seen) == 1
			mu.Unlock()
			if first {
				close(entered)
				<-release
			}
			return nil
		})
	}()
	<-entered
	for i := range 100 { // none of these waits for the watcher
		store.Source(seven, staging, sourceOf(fmt.Sprint("c", i)))
	}
	close(release)
	testkit.Eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]string{staging + " c1", staging + " c99"}, seen); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if len(store.agents[7].watchers) != 0 {
		t.Error("the watcher is still registered")
	}
}

func TestStore_WatchOfOneProjectThatIsNotThereYet(t *testing.T) {
	store, _ := newStore(t, nil)
	got := make(chan *syncstatus.ProjectStatus, 10)
	enough := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- store.Watch(t.Context(), 7, staging, func(p *syncstatus.ProjectStatus) error { got <- p; return enough })
	}()
	testkit.Eventually(t, func() error {
		store.mu.Lock()
		defer store.mu.Unlock()
		if store.agents[7] == nil {
			return errors.New("not watching yet")
		}
		return nil
	})
	store.Connected(seven, "other")
	store.Connected(seven, staging)
	if err := <-done; !errors.Is(err, enough) {
		t.Errorf("ended with %v", err)
	}
	if p := <-got; p.GetProjectId() != staging {
		t.Errorf("got %v", p)
	}
}

// Who asked for a sync of what is synced already tells by it that it was done.
func TestStore_TellsWhenTheSetRanAlsoWhereNothingElseChanged(t *testing.T) {
	store, _ := newStore(t, nil)
	syncTo(store, "c1", "a")
	for _, moment := range []time.Time{epoch.Add(time.Minute), epoch.Add(time.Hour)} {
		again := reportOf("c1", healthy("a")...)
		again.RanAt = timestamppb.New(moment)
		store.Report(seven, staging, again)
		got, _ := store.Get(t.Context(), 7, staging)
		if at := got.GetTimes().GetRanAt().AsTime(); !at.Equal(moment) {
			t.Errorf("it ran at %s, want %s", at, moment)
		}
	}
	store.Source(seven, staging, sourceOf("c2"))
	if got, _ := store.Get(t.Context(), 7, staging); got.GetTimes().GetRanAt() == nil || got.GetTimes().GetAppliedAt() != nil {
		t.Errorf("the times are %v", got.GetTimes())
	}
}

package agentk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

// drawer is a ControlStore that outlives agents.
type drawer struct {
	mu   sync.Mutex
	kept map[string]Controls
	// stuck is what all calls fail with; nil: they do not.
	stuck error
}

func newDrawer() *drawer { return &drawer{kept: map[string]Controls{}} }

func (d *drawer) LoadControls(_ context.Context, key string) (Controls, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept[key], d.stuck
}

func (d *drawer) SaveControls(_ context.Context, key string, c Controls) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stuck == nil {
		d.kept[key] = c
	}
	return d.stuck
}

func (d *drawer) stick(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stuck = err
}

func (d *drawer) keep(key string) Controls {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept[key]
}

func in(d *drawer) func(*Config) { return func(c *Config) { c.Controls = d } }

func suspendCommand(id string) *agentrpc.Command {
	return &agentrpc.Command{Id: id, By: "ann", Command: &agentrpc.Command_Suspend{Suspend: &agentrpc.Suspend{}}}
}

func resumeCommand(id string) *agentrpc.Command {
	return &agentrpc.Command{Id: id, By: "ben", Command: &agentrpc.Command_Resume{Resume: &agentrpc.Resume{}}}
}

func syncCommand(id string) *agentrpc.Command {
	return &agentrpc.Command{Id: id, By: "ben", Command: &agentrpc.Command_SyncNow{SyncNow: &agentrpc.SyncNow{}}}
}

func approveCommand(id, commit string) *agentrpc.Command {
	return &agentrpc.Command{Id: id, By: "cid", Command: &agentrpc.Command_ApprovePrune{ApprovePrune: &agentrpc.ApprovePrune{CommitId: commit}}}
}

// command gives a command for project a, after other messages, and returns what came
// of it.
func (r *rig) command(t *testing.T, c *agentrpc.Command, first ...*agentrpc.ConnectResponse) string {
	t.Helper()
	r.kas.push("a", append(first, &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Command{Command: c}})...)
	return r.awaitResult(t, c.GetId())
}

func (r *rig) awaitResult(t *testing.T, id string) string {
	t.Helper()
	var problem string
	testkit.Eventually(t, func() error {
		r.kas.mu.Lock()
		defer r.kas.mu.Unlock()
		result, ok := r.kas.results[id]
		if !ok {
			return errors.New("no answer")
		}
		problem = result.GetError()
		return nil
	})
	return problem
}

func (r *rig) awaitState(t *testing.T, state syncstatus.State) *agentrpc.Report {
	t.Helper()
	var last *agentrpc.Report
	testkit.Eventually(t, func() error {
		if last = r.kas.report("a"); last.GetState() != state {
			return fmt.Errorf("report is %v", last)
		}
		return nil
	})
	return last
}

// awaitCommits waits until the engine has run for these commits.
func (r *rig) awaitCommits(t *testing.T, commits ...string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if got := r.engine.commits(); !slices.Equal(got, commits) {
			return fmt.Errorf("ran %v, want %v", got, commits)
		}
		return nil
	})
}

func TestControl_SuspendedIsUntouchedUntilResumedAlsoAfterARestart(t *testing.T) {
	store := newDrawer()
	r := startAgent(t, in(store))
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	require.Empty(t, r.command(t, suspendCommand("1")))
	report := r.awaitState(t, syncstatus.State_STATE_SUSPENDED)
	require.Equal(t, "ann", report.GetSuspension().GetBy())
	require.WithinDuration(t, time.Now(), report.GetSuspension().GetAt().AsTime(), time.Minute)
	require.Contains(t, report.GetMessage(), "suspended by ann since ")
	require.Empty(t, r.command(t, suspendCommand("2")), "twice is as good as once")

	require.Equal(t, "the project is suspended by ann: resume it first", r.command(t, syncCommand("3"), aSet("c2", 10, "x", "y")...))
	require.Equal(t, []string{"c1"}, r.engine.commits(), "the set came before the command, and nothing was done")
	r.stop()
	r.kas.mu.Lock()
	delete(r.kas.reports, "a") // what follows is the next process's
	r.kas.mu.Unlock()

	again := &rig{engine: newFakeEngine(), tokenFile: r.tokenFile, kas: r.kas}
	r.kas.push("a", aSet("c2", 10, "x", "y")...)
	again.run(t, "grpc://"+r.kas.address, in(store))
	require.Equal(t, report.GetSuspension().GetAt().AsTime(), again.awaitState(t, syncstatus.State_STATE_SUSPENDED).GetSuspension().GetAt().AsTime())
	require.Contains(t, again.command(t, syncCommand("4")), "suspended by ann")
	require.Empty(t, again.engine.commits())

	require.Empty(t, again.command(t, resumeCommand("5")))
	again.awaitSynced(t, "a", "c2")
	require.Nil(t, r.kas.report("a").GetSuspension())
	require.Equal(t, Controls{}, store.keep("5-10"))
	require.Empty(t, again.command(t, resumeCommand("6")))
	require.Empty(t, again.command(t, syncCommand("7")))
	testkit.Eventually(t, func() error {
		if got := again.engine.commits(); len(got) < 2 || got[len(got)-1] != "c2" {
			return fmt.Errorf("ran %v", got)
		}
		return nil
	})
}

func TestControl_SuspendAnswersWhenTheRunUnderWayHasEnded(t *testing.T) {
	store := newDrawer()
	r := startAgent(t, in(store))
	begun, end := make(chan struct{}), make(chan struct{})
	r.engine.run = func(ctx context.Context, _ int, _ gitops.Desired, _ gitops.Observer) (gitops.Result, error) {
		close(begun)
		<-ctx.Done()
		<-end // a request in flight
		return gitops.Result{}, ctx.Err()
	}
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	<-begun
	r.kas.push("a", &agentrpc.ConnectResponse{Message: &agentrpc.ConnectResponse_Command{Command: suspendCommand("1")}})
	testkit.Eventually(t, func() error {
		if store.keep("5-10").SuspendedBy == "" {
			return errors.New("not yet")
		}
		return nil
	})
	r.kas.mu.Lock()
	require.Empty(t, r.kas.results)
	r.kas.mu.Unlock()
	close(end)
	require.Empty(t, r.awaitResult(t, "1"))
	r.awaitState(t, syncstatus.State_STATE_SUSPENDED)
}

func TestControl_NothingIsSyncedBeforeItIsKnownWhetherItMay(t *testing.T) {
	store := newDrawer()
	store.stick(errors.New("the API server is away"))
	r := startAgent(t, in(store))
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	testkit.Eventually(t, func() error {
		if report := r.kas.report("a"); !strings.Contains(report.GetMessage(), "the API server is away") {
			return fmt.Errorf("report is %v", report)
		}
		return nil
	})
	require.Contains(t, r.command(t, suspendCommand("1")), "the API server is away")
	require.Empty(t, r.engine.commits())
	store.stick(nil)
	r.awaitSynced(t, "a", "c1")
	require.Empty(t, r.kas.report("a").GetMessage())
}

func TestControl_TheConfigurationSuspendsAsWell(t *testing.T) {
	r := startAgent(t, in(newDrawer()))
	suspended := project("a")
	suspended.Suspend = true
	r.kas.configure(5, suspended)
	r.kas.push("a", aSet("c1", 10, "x")...)
	require.Equal(t, "the agent's configuration", r.awaitState(t, syncstatus.State_STATE_SUSPENDED).GetSuspension().GetBy())
	require.Equal(t, "the project is suspended by the agent's configuration: remove suspend there", r.command(t, resumeCommand("1")))
	require.Empty(t, r.engine.commits())
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.kas.configure(5, project("a"))
	r.awaitSynced(t, "a", "c1")
}

func TestControl_ApprovedDeletionsGoOn(t *testing.T) {
	store := newDrawer()
	r := startAgent(t, in(store))
	id := func(name string) inventory.ID { return inventory.ID{Name: name} }
	r.engine.run = func(_ context.Context, n int, d gitops.Desired, o gitops.Observer) (gitops.Result, error) {
		result := created(d, o)
		r.engine.mu.Lock()
		defer r.engine.mu.Unlock()
		if r.engine.projects[n-1].Guard.Approved != d.Commit {
			result.Held, result.HeldBack = []inventory.ID{id("x"), id("y")}, "2 objects would be deleted"
		}
		return result, nil
	}
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10)...)
	held := r.awaitState(t, syncstatus.State_STATE_PARTIAL).GetHeldPrune()
	require.Equal(t, "c1", held.GetCommitId())
	require.EqualValues(t, 2, held.GetTotal())
	require.Equal(t, "x", held.GetObjects()[0].GetName())
	require.Equal(t, "2 objects would be deleted", held.GetReason())
	require.Equal(t, "the deletions of commit c1 wait for an approval, not those of c0", r.command(t, approveCommand("1", "c0")))
	require.Empty(t, r.command(t, approveCommand("2", "c1")))
	r.awaitSynced(t, "a", "c1")
	require.Nil(t, r.kas.report("a").GetHeldPrune())
	require.Equal(t, Controls{ApprovedCommit: "c1", ApprovedBy: "cid"}, store.keep("5-10"))
	require.Equal(t, "no deletion waits for an approval", r.command(t, approveCommand("3", "c1")))
}

func TestControl_CommandsThatCannotBeCarriedOut(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	require.Contains(t, r.command(t, suspendCommand("1")), "has not received the project's objects yet")
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	require.Contains(t, r.command(t, &agentrpc.Command{Id: "2"}), "does not know the command")
	fromTheFuture := &agentrpc.ConnectResponse{}
	require.Empty(t, r.command(t, syncCommand("3"), fromTheFuture))
	r.awaitCommits(t, "c1", "c1")
	_, hellos, _ := r.kas.seen()
	require.Len(t, hellos, 1)
}

// comparison is the messages of a set to be compared.
func comparison(id, commit string, names ...string) []*agentrpc.ConnectResponse {
	messages := aSet(commit, 10, names...)
	messages[0].GetHeader().ComparisonId = id
	return messages
}

func (r *rig) awaitComparisons(t *testing.T, ids ...string) []*agentrpc.Comparison {
	t.Helper()
	var got []*agentrpc.Comparison
	testkit.Eventually(t, func() error {
		r.kas.mu.Lock()
		defer r.kas.mu.Unlock()
		got = slices.Clone(r.kas.comparisons)
		seen := map[string]bool{}
		for _, c := range got {
			seen[c.GetId()] = true
		}
		if have := slices.Sorted(maps.Keys(seen)); !slices.Equal(have, ids) {
			return fmt.Errorf("answers to %v, want %v", have, ids)
		}
		return nil
	})
	return got
}

func TestCompare_LeavesWhatIsHeldAlone(t *testing.T) {
	r := startAgent(t, nil)
	r.kas.configure(5, project("a"))
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.awaitSynced(t, "a", "c1")
	r.kas.push("a", comparison("q1", "c2", "x", "y")...)
	got := r.awaitComparisons(t, "q1")
	require.Len(t, got[0].GetDifferences(), 2)
	require.Equal(t, syncstatus.Action_ACTION_CREATED, got[0].GetDifferences()[1].GetAction())
	require.Equal(t, "y.yaml", got[0].GetDifferences()[1].GetSourcePath())
	require.False(t, got[0].GetMore())
	require.Equal(t, []string{"c1"}, r.engine.commits())

	r.kas.stop()
	r.kas.push("a", aSet("c1", 10, "x")...)
	r.kas.start(t)
	testkit.Eventually(t, func() error {
		_, hellos, _ := r.kas.seen()
		if last := hellos[len(hellos)-1]; len(hellos) < 2 || last.GetCommitId() != "c1" || len(last.GetDigests()) != 1 {
			return fmt.Errorf("hello is %v", last)
		}
		return nil
	})
}

func TestCompare_ANewerOnePreemptsAndTroubleIsTold(t *testing.T) {
	r := startAgent(t, nil)
	begun := make(chan struct{}, 10)
	r.engine.diff = func(ctx context.Context, d gitops.Desired) ([]gitops.Difference, error) {
		begun <- struct{}{}
		if d.Commit == "slow" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, gitops.ErrUnavailable
	}
	r.kas.configure(5, project("a"))
	r.kas.push("a", comparison("q1", "slow", "x")...)
	<-begun
	r.kas.push("a", comparison("q2", "c2", "x")...)
	for _, c := range r.awaitComparisons(t, "q1", "q2") {
		require.Contains(t, c.GetError(), "the cluster could not be compared")
		require.Empty(t, c.GetDifferences())
	}
	require.Empty(t, r.engine.commits())
}

func TestEngineProject_AConfiguredApprovalStands(t *testing.T) {
	p := project("a")
	p.PruneGuard = &agentcfg.PruneGuard{ApprovedCommit: strings.Repeat("a", 40), MinObjects: proto.Uint32(3)}
	got, err := engineProject("5-10", p)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("a", 40), got.Guard.Approved)
	require.Equal(t, 3, got.Guard.MinObjects)
}

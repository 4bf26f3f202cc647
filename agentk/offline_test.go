package agentk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/agentk/desired"
	"github.com/kas-agentk/kas/internal/testkit"
)

// withState starts an agent that follows kas and keeps its state in dir.
func withState(t *testing.T, kas *fakeKAS, dir string, elector Elector) *rig {
	t.Helper()
	r := &rig{kas: kas, engine: newFakeEngine(), elector: elector, tokenFile: filepath.Join(t.TempDir(), "token")}
	r.run(t, "grpc://"+kas.address, func(cfg *Config) { cfg.StateDir = dir })
	return r
}

// awaitRuns waits until the engine has run these commits.
func (r *rig) awaitRuns(t *testing.T, commits ...string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if got := r.engine.commits(); fmt.Sprint(got) != fmt.Sprint(commits) {
			return fmt.Errorf("runs of %v, want %v", got, commits)
		}
		return nil
	})
}

// synced is a state directory of an agent that has synced commit c1 of project a.
func synced(t *testing.T, kas *fakeKAS, elector Elector) (dir string) {
	t.Helper()
	dir = t.TempDir()
	r := withState(t, kas, dir, elector)
	kas.configure(5, project("a"))
	kas.push("a", aSet("c1", 10, "x", "y")...)
	r.awaitSynced(t, "a", "c1")
	r.stop()
	return dir
}

func TestOffline_HealsFromTheLastGoodSetWhileKASIsAway(t *testing.T) {
	kas := startFakeKAS(t, nil)
	dir := synced(t, kas, nil)
	kas.stop()

	r := withState(t, kas, dir, nil)
	r.awaitRuns(t, "c1")
	r.awaitUnready(t, "kas: not connected to kas, healing from what it said last")
	require.InDelta(t, 1, testutil.ToFloat64(r.link.metrics.offline), 0)
	require.Equal(t, []string{"5-10"}, r.engine.keys)
	require.False(t, r.engine.projects[0].Prune, "nothing is deleted without kas")

	// kas is back: it learns what is held, and what it sends is run once more, for
	// now things may be deleted.
	_, before, _ := kas.seen()
	kas.start(t)
	r.awaitRuns(t, "c1", "c1")
	r.awaitReady(t)
	require.True(t, r.engine.projects[1].Prune)
	watches, hellos, _ := kas.seen()
	require.Empty(t, watches[len(watches)-1].GetCommitId(), "kas is asked who this is")
	require.Len(t, hellos, len(before)+1)
	require.Equal(t, "c1", hellos[len(before)].GetCommitId())
	require.Len(t, hellos[len(before)].GetDigests(), 2)
	require.Zero(t, testutil.ToFloat64(r.link.metrics.offline))
	kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
}

func TestOffline_WaitsForAKASThatIsThere(t *testing.T) {
	kas := startFakeKAS(t, nil)
	dir := synced(t, kas, nil)
	kas.push("a", aSet("c2", 10, "x")...)
	r := withState(t, kas, dir, nil)
	r.awaitSynced(t, "a", "c2")
	require.Equal(t, []string{"c2"}, r.engine.commits(), "the kept set was not run")
}

func TestOffline_DoesNotTakeTheClusterBackToBeforeAnotherLed(t *testing.T) {
	kas := startFakeKAS(t, nil)
	elector := leadsFrom(7)
	dir := synced(t, kas, elector)
	kas.stop()
	r := withState(t, kas, dir, leadsFrom(9))
	testkit.Eventually(t, func() error {
		if testutil.ToFloat64(r.link.metrics.leader) != 1 {
			return errors.New("does not lead")
		}
		return nil
	})
	kas.start(t)
	kas.push("a", aSet("c2", 10, "x")...)
	r.awaitSynced(t, "a", "c2")
	require.Equal(t, []string{"c2"}, r.engine.commits())
	_, hellos, _ := kas.seen()
	require.Equal(t, "c1", hellos[len(hellos)-1].GetCommitId(), "it still saves traffic")
}

func TestOffline_StateOfAnotherTokenIsNotUsed(t *testing.T) {
	kas := startFakeKAS(t, nil)
	dir := synced(t, kas, nil)
	kas.stop()
	kas.setToken("another")
	r := &rig{kas: kas, engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
	r.run(t, "grpc://"+kas.address, func(cfg *Config) {
		cfg.StateDir = dir
		require.NoError(t, os.WriteFile(cfg.TokenFile, []byte("another"), 0o600))
	})
	r.awaitUnready(t, "kas: not connected")
	kas.configure(6, project("a"))
	kas.start(t)
	testkit.Eventually(t, func() error {
		if len(r.engine.commits()) == 0 {
			return errors.New("no run")
		}
		return nil
	})
	require.Equal(t, []string{"6-10"}, r.engine.keys)
}

func TestOffline_RefusedTokenUsesNoState(t *testing.T) {
	kas := startFakeKAS(t, nil)
	dir := synced(t, kas, nil)
	kas.setToken("rotated")
	r := withState(t, kas, dir, nil)
	r.awaitUnready(t, "kas: token unknown or revoked")
	require.Empty(t, r.engine.commits())
	r.writeToken(t, "rotated")
	r.awaitRuns(t, "c1")
}

func TestOffline_ProjectThatLeftIsForgotten(t *testing.T) {
	kas := startFakeKAS(t, nil)
	dir := synced(t, kas, nil)
	r := withState(t, kas, dir, nil)
	kas.configure(5, project("b"))
	kas.push("b", aSet("c7", 11, "x")...)
	r.awaitSynced(t, "b", "c7")
	r.stop()
	kas.stop()

	r = withState(t, kas, dir, nil)
	r.awaitRuns(t, "c7")
	require.Equal(t, []string{"5-11"}, r.engine.keys)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 3, "configuration, term and one set: %v", files)
}

func TestOffline_NothingIsKeptWithoutAStateDirectory(t *testing.T) {
	kas := startFakeKAS(t, nil)
	kas.configure(5, project("a"))
	kas.push("a", aSet("c1", 10, "x")...)
	kas.stop()
	r := &rig{kas: kas, engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token")}
	r.run(t, "grpc://"+kas.address, nil)
	r.awaitProbe(t, http.StatusServiceUnavailable, "kas: not connected to kas: kas cannot be reached")
	kas.start(t)
	r.awaitSynced(t, "a", "c1")
}

func TestWorker_HealsWhereKASSendsNoSet(t *testing.T) {
	kas := startFakeKAS(t, nil)
	dir := synced(t, kas, nil)
	store, err := desired.OpenStore(desired.StoreConfig{
		Dir: dir, Limits: desired.DefaultLimits(), Wrote: func(string, error) {}, SetAside: func(string, error) {},
	})
	require.NoError(t, err)
	require.NoError(t, store.Lead(5, 1))
	m, err := newMetrics(prometheus.NewRegistry())
	require.NoError(t, err)
	clk := clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))
	w := newWorker(workerConfig{
		log: testkit.Logger(t), clock: clk, metrics: m, link: &link{metrics: m, clock: clk}, claims: newClaims(), store: store,
	}, 5, project("a"))
	w.link.up()
	set := w.restore()
	require.NotNil(t, set)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.offer(ctx, set)
	}()
	testkit.Eventually(t, func() error {
		if !clk.HasWaiters() {
			return errors.New("nobody waits")
		}
		return nil
	})
	_, filled, _ := w.sets.Get()
	require.False(t, filled)
	clk.Step(firstSetGrace)
	<-ended
	_, filled, _ = w.sets.Get()
	require.True(t, filled)
}

// leadsFrom is an Elector without others whose first term has that number.
type leadsFrom int64

func (l leadsFrom) Lead(ctx context.Context, _ int64, work func(context.Context, int64)) error {
	work(ctx, int64(l))
	<-ctx.Done()
	return nil
}

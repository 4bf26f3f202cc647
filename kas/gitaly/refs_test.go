package gitaly_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/gitaly"
)

// follower is one call of Follow.
type follower struct {
	t    *testing.T
	news chan gitrepo.Revision
	// end may be called more than once.
	end func()
}

type refsFixture struct {
	t       *testing.T
	fake    *fake
	refs    *gitaly.Refs
	clock   *clocktesting.FakeClock
	metrics *prometheus.Registry
}

func startRefs(t *testing.T) *refsFixture {
	t.Helper()
	f := &refsFixture{t: t, fake: newFake(), clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), metrics: prometheus.NewRegistry()}
	f.refs = gitaly.NewRefs(gitaly.RefsConfig{Clock: f.clock, PollTimeout: testkit.Patience}, f.fake.serve(t, gitaly.PoolConfig{}), f.metrics)
	return f
}

func (f *refsFixture) follow(ref gitrepo.Ref, every time.Duration) *follower {
	f.t.Helper()
	fo := &follower{t: f.t, news: make(chan gitrepo.Revision, 100)}
	fo.end = sync.OnceFunc(f.refs.Follow(f.t.Context(), repo, ref, every, func(r gitrepo.Revision) { fo.news <- r }))
	f.t.Cleanup(fo.end)
	return fo
}

func (f *follower) next() gitrepo.Revision {
	f.t.Helper()
	select {
	case r := <-f.news:
		return r
	case <-time.After(testkit.Patience):
		f.t.Fatal("nothing new")
		return gitrepo.Revision{}
	}
}

// polled waits until n calls of a method were made, and the poller waits again.
func (f *refsFixture) polled(method string, n int) {
	f.t.Helper()
	testkit.Eventually(f.t, func() error {
		if got := f.fake.count(method); got != n {
			return fmt.Errorf("%d calls of %s, want %d", got, method, n)
		}
		if !f.clock.HasWaiters() {
			return errors.New("still polling")
		}
		return nil
	})
}

// step lets the longest wait of d pass.
func (f *refsFixture) step(d time.Duration) { f.clock.Step(d) }

const infoRefs = "InfoRefsUploadPack"

func TestFollow_TellsWhatIsNewAndNothingElse(t *testing.T) {
	f := startRefs(t)
	first := f.fake.commit("refs/heads/main", "one", nil)
	fo := f.follow(gitrepo.Ref{}, period)
	start := f.clock.Now()
	want := gitrepo.Revision{Ref: gitrepo.Ref{Branch: "main"}, CommitID: first, DetectedAt: start}
	assert.Equal(t, want, fo.next())

	for i := range 3 {
		f.polled(infoRefs, i+1)
		f.step(period)
	}
	f.polled(infoRefs, 4)
	assert.Empty(t, fo.news)

	second := f.fake.commit("refs/heads/main", "two", nil)
	f.step(period)
	assert.Equal(t, gitrepo.Revision{Ref: want.Ref, CommitID: second, DetectedAt: f.clock.Now()}, fo.next())
	f.polled(infoRefs, 5)
	for _, method := range []string{"FindCommit", "GetTreeEntries", "ListBlobs", "TreeEntry"} {
		assert.Zero(t, f.fake.count(method), method)
	}
	require.NoError(t, testutil.GatherAndCompare(f.metrics, strings.NewReader(`
# HELP kas_gitaly_pollers Refs that are followed: one for each repository and ref.
# TYPE kas_gitaly_pollers gauge
kas_gitaly_pollers 1
# HELP kas_gitaly_polls_total Polls of refs, by result: moved, unmoved, problem (a person must act) or error (may pass).
# TYPE kas_gitaly_polls_total counter
kas_gitaly_polls_total{result="moved"} 2
kas_gitaly_polls_total{result="unmoved"} 3
`), "kas_gitaly_pollers", "kas_gitaly_polls_total"))
}

func TestFollow_ManyFollowersCostOnePoller(t *testing.T) {
	f := startRefs(t)
	first := f.fake.commit("refs/heads/main", "one", nil)
	a := f.follow(gitrepo.Ref{Branch: "main"}, period)
	a.next()
	f.polled(infoRefs, 1)
	var others []*follower
	for range 20 {
		others = append(others, f.follow(gitrepo.Ref{Branch: "main"}, period))
	}
	for _, o := range others {
		assert.Equal(t, first, o.next().CommitID, "what is known is told at once")
	}
	assert.Equal(t, 1, f.fake.count(infoRefs))
	a.end() // the first may leave before the others
	second := f.fake.commit("refs/heads/main", "two", nil)
	f.step(period)
	for _, o := range others {
		assert.Equal(t, second, o.next().CommitID)
	}
	f.polled(infoRefs, 2)
	for _, o := range others {
		o.end()
	}
	assert.False(t, f.clock.HasWaiters(), "the poller ended with its last follower")
	assert.Equal(t, first, f.followOnce(t, "one"))
}

// followOnce moves the branch to a commit, and returns what a new follower learns.
func (f *refsFixture) followOnce(t *testing.T, name string) string {
	t.Helper()
	f.fake.commit("refs/heads/main", name, nil)
	fo := f.follow(gitrepo.Ref{Branch: "main"}, period)
	defer fo.end()
	return fo.next().CommitID
}

func TestFollow_NothingIsToldAfterStop(t *testing.T) {
	f := startRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	leaves, stays := f.follow(gitrepo.Ref{}, period), f.follow(gitrepo.Ref{}, period)
	assert.Equal(t, oid("one"), leaves.next().CommitID)
	assert.Equal(t, oid("one"), stays.next().CommitID)
	f.polled(infoRefs, 1)
	leaves.end()
	f.fake.commit("refs/heads/main", "two", nil)
	f.step(period)
	assert.Equal(t, oid("two"), stays.next().CommitID)
	f.polled(infoRefs, 2) // all have been told
	assert.Empty(t, leaves.news)
}

func TestFollow_TellsWhatIsKnownBeforeItReturns(t *testing.T) {
	f := startRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	f.follow(gitrepo.Ref{}, period).next()
	assert.Len(t, f.follow(gitrepo.Ref{}, period).news, 1)
}

func TestFollow_Problems(t *testing.T) {
	f := startRefs(t)
	fo := f.follow(gitrepo.Ref{Branch: "main"}, period)
	assert.Equal(t, gitrepo.Revision{Ref: gitrepo.Ref{Branch: "main"}, Problem: gitrepo.ErrEmpty}, fo.next())
	polls := 1
	again := func() {
		f.polled(infoRefs, polls)
		f.step(period)
		polls++
	}
	again()
	f.polled(infoRefs, polls)
	assert.Empty(t, fo.news, "the same problem is told once")

	f.fake.commit("refs/heads/x", "x", nil)
	again()
	assert.Equal(t, &gitrepo.RefNotFoundError{Ref: gitrepo.Ref{Branch: "main"}}, fo.next().Problem)
	id := f.fake.commit("refs/heads/main", "one", nil)
	again()
	assert.Equal(t, id, fo.next().CommitID)
}

func TestFollow_GoneRepository(t *testing.T) {
	f := startRefs(t)
	f.fake.fail(status.Error(codes.NotFound, "GetRepoPath: not a git repository"))
	assert.Equal(t, gitrepo.ErrRepositoryNotFound, f.follow(gitrepo.Ref{}, period).next().Problem)
}

func TestFollow_GitalyAway(t *testing.T) {
	f := startRefs(t)
	f.fake.fail(status.Error(codes.Unavailable, "going down"))
	fo := f.follow(gitrepo.Ref{}, period)
	assert.True(t, gitrepo.IsPassing(fo.next().Problem), "a new follower is told at once")
	id := f.fake.commit("refs/heads/main", "one", nil)
	f.fake.fail(nil)
	f.polled(infoRefs, 1)
	f.step(time.Second) // tried again long before the period has passed
	got := fo.next()
	assert.Equal(t, id, got.CommitID)

	f.polled(infoRefs, 2)
	f.fake.fail(status.Error(codes.Unavailable, "going down"))
	f.step(period)
	f.polled(infoRefs, 3)
	assert.Empty(t, fo.news, "one failed poll is no news")
	f.step(time.Second)
	assert.True(t, gitrepo.IsPassing(fo.next().Problem))
	for polls := 4; polls < 12; polls++ {
		f.polled(infoRefs, polls)
		f.step(period)
	}
	f.polled(infoRefs, 12)
	assert.Empty(t, fo.news)
	f.fake.fail(nil)
	f.step(period) // however long it was away
	assert.Equal(t, got, fo.next(), "the same commit, detected when it was")
}

func TestFollow_ACommitIsLookedUpOnce(t *testing.T) {
	f := startRefs(t)
	ref := gitrepo.Ref{Commit: oid("one")}
	fo := f.follow(ref, period)
	assert.Equal(t, &gitrepo.RefNotFoundError{Ref: ref}, fo.next().Problem)
	f.polled("FindCommit", 1)
	f.fake.commit("refs/heads/main", "one", nil)
	f.step(period)
	assert.Equal(t, oid("one"), fo.next().CommitID)
	testkit.Eventually(t, func() error {
		if f.clock.HasWaiters() {
			return errors.New("still polling")
		}
		return nil
	})
	assert.Equal(t, oid("one"), f.follow(ref, period).next().CommitID)
	assert.Equal(t, 2, f.fake.count("FindCommit"))
	assert.Zero(t, f.fake.count(infoRefs))
}

func TestFollow_PollsAtTheShortestPeriodAskedFor(t *testing.T) {
	f := startRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	slow := f.follow(gitrepo.Ref{}, time.Hour)
	slow.next()
	f.polled(infoRefs, 1)
	quick := f.follow(gitrepo.Ref{}, time.Second)
	quick.next()
	f.polled(infoRefs, 2) // the wait of an hour was cut short
	f.fake.commit("refs/heads/main", "two", nil)
	f.step(time.Second)
	assert.Equal(t, oid("two"), slow.next().CommitID)
	f.polled(infoRefs, 3) // it waits, and for how long is settled
	quick.end()
	f.step(time.Second)
	f.polled(infoRefs, 4) // the wait that was under way
	f.step(time.Minute)
	f.polled(infoRefs, 4)
}

func TestFollow_FromPollToPollItIsNeverLongerThanThePeriod(t *testing.T) {
	f := startRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	f.fake.slow = func() { f.clock.Step(300 * time.Millisecond) } // a poll takes that long
	f.follow(gitrepo.Ref{}, time.Second).next()
	for n := 1; n < 30; n++ {
		f.polled(infoRefs, n)
		f.step(700 * time.Millisecond)
	}
}

func TestPoke_PollsNow(t *testing.T) {
	f := startRefs(t)
	f.fake.commit("refs/heads/main", "one", nil)
	fo := f.follow(gitrepo.Ref{}, time.Hour)
	fo.next()
	f.polled(infoRefs, 1)
	f.fake.commit("refs/heads/main", "two", nil)
	f.refs.Poke(func(r gitlabapi.GitalyRepository) bool { return r.GlProjectPath == "group/other" }, "")
	assert.Equal(t, 1, f.fake.count(infoRefs))
	f.refs.Poke(func(r gitlabapi.GitalyRepository) bool { return r.GlProjectPath == "group/a" }, "")
	assert.Equal(t, oid("two"), fo.next().CommitID)
}

func TestLookup_AsksOnceAndFollowsNothing(t *testing.T) {
	f := startRefs(t)
	first := f.fake.commit("refs/heads/main", "one", nil)
	got, err := f.refs.Lookup(t.Context(), repo, gitrepo.Ref{Branch: "main"})
	require.NoError(t, err)
	assert.Equal(t, gitrepo.Revision{Ref: gitrepo.Ref{Branch: "main"}, CommitID: first, DetectedAt: f.clock.Now()}, got)
	assert.Equal(t, 1, f.fake.count(infoRefs))
	assert.False(t, f.clock.HasWaiters())
	_, err = f.refs.Lookup(t.Context(), repo, gitrepo.Ref{Branch: "none"})
	var missing *gitrepo.RefNotFoundError
	require.ErrorAs(t, err, &missing)
}

package gitaly_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/gitrepo"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/gitaly"
)

// safetyPeriods is how long a kas at most does not look for itself, in periods.
const safetyPeriods = 10

// replica is what one kas sees of the others. It is its own only turn as well.
type replica struct {
	mu      sync.Mutex
	theirs  bool
	changed chan struct{}
	name    string
	ended   bool
	// tell is called with what this replica tells.
	tell func([]byte)
}

func (r *replica) Turn(name string) gitaly.Turn {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name = name
	return r
}

func (r *replica) Theirs() (bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.theirs, r.changed
}

func (r *replica) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

func (r *replica) Tell(message []byte) { r.tell(message) }

func (r *replica) turn(theirs bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.theirs = theirs
	close(r.changed)
	r.changed = make(chan struct{})
}

// kas is one of several that follow the same branch.
type kas struct {
	*refsFixture
	replica *replica
	branch  *follower
	// polls that Gitaly has answered, by the kas's own count.
	polls func() float64
}

// two kas follow a branch, and the first polls.
func two(t *testing.T) (a, b *kas, gitaly *fake) {
	t.Helper()
	gitaly = newFake()
	gitaly.commit("refs/heads/main", "one", nil)
	a, b = startReplica(t, gitaly, false), startReplica(t, gitaly, true)
	a.replica.tell = func(m []byte) { b.refs.Heard(m) }
	b.replica.tell = func(m []byte) { a.refs.Heard(m) }
	for _, k := range []*kas{a, b} {
		k.branch = k.follow(gitrepo.Ref{Branch: "main"}, period)
		assert.Equal(t, oid("one"), k.branch.next().CommitID)
		k.polledItself(1)
	}
	return a, b, gitaly
}

func startReplica(t *testing.T, f *fake, theirs bool) *kas {
	t.Helper()
	k := &kas{
		replica: &replica{theirs: theirs, changed: make(chan struct{})},
		refsFixture: &refsFixture{
			t: t, fake: f, clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), metrics: prometheus.NewRegistry(),
		},
	}
	k.refs = gitaly.NewRefs(gitaly.RefsConfig{Clock: k.clock, PollTimeout: testkit.Patience, Replicas: k.replica}, f.serve(t, gitaly.PoolConfig{}), k.metrics)
	k.polls = func() float64 {
		all, err := k.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0.0
		for _, family := range all {
			for _, m := range family.GetMetric() {
				if family.GetName() == "kas_gitaly_polls_total" {
					n += m.GetCounter().GetValue()
				}
			}
		}
		return n
	}
	return k
}

// polledItself waits until the kas has polled that often and waits again.
func (k *kas) polledItself(times float64) {
	k.t.Helper()
	testkit.Eventually(k.t, func() error {
		if n := k.polls(); n != times {
			return fmt.Errorf("it polled %v times, want %v", n, times)
		}
		if !k.clock.HasWaiters() {
			return errors.New("still polling")
		}
		return nil
	})
}

func TestReplicas_OneOfThemPolls(t *testing.T) {
	a, b, _ := two(t)
	assert.Equal(t, a.replica.name, b.replica.name, "they must mean the same ref")
	assert.NotContains(t, a.replica.name, "main")
	for i := range 8 {
		a.step(period)
		b.step(period)
		a.polledItself(float64(i + 2))
	}
	b.polledItself(1)
	b.step(2 * period)
	b.polledItself(2) // it looks for itself all the same
	b.branch.end()
	assert.True(t, b.replica.ended)
}

func TestReplicas_TellEachOtherWhatIsNew(t *testing.T) {
	a, b, gitaly := two(t)
	gitaly.commit("refs/heads/main", "two", nil)
	a.step(period)
	assert.Equal(t, oid("two"), a.branch.next().CommitID)
	assert.Equal(t, oid("two"), b.branch.next().CommitID)
	a.polledItself(2)
	b.polledItself(2)

	// The one that does not poll may be the first to know.
	gitaly.commit("refs/heads/main", "three", nil)
	b.refs.Poke(func(gitlabapi.GitalyRepository) bool { return true }, "")
	assert.Equal(t, oid("three"), b.branch.next().CommitID)
	assert.Equal(t, oid("three"), a.branch.next().CommitID)
	a.polledItself(3)
	b.polledItself(3)

	// Trouble that a person must end is news as well.
	gitaly.fail(status.Error(codes.NotFound, "GetRepoPath: not a git repository"))
	a.step(period)
	assert.Equal(t, gitrepo.ErrRepositoryNotFound, a.branch.next().Problem)
	assert.Equal(t, gitrepo.ErrRepositoryNotFound, b.branch.next().Problem)
}

func TestReplicas_ItIsGitalyThatIsBelieved(t *testing.T) {
	_, b, gitaly := two(t)
	b.refs.Heard([]byte(b.replica.name + " " + oid("two")))
	b.polledItself(2) // Gitaly knows nothing of it
	for i := range 3 {
		b.step(period)
		b.polledItself(float64(i + 3)) // yet
	}
	assert.Empty(t, b.branch.news)
	gitaly.commit("refs/heads/main", "two", nil)
	b.step(period)
	assert.Equal(t, oid("two"), b.branch.next().CommitID)
	b.polledItself(6)
	b.step(period)
	b.polledItself(6)
	for _, message := range []string{"", " ", "nobody", "nobody " + oid("three"), b.replica.name + " " + oid("two")} {
		b.refs.Heard([]byte(message))
	}
	b.polledItself(6)
}

func TestReplicas_WhereNobodyIsKnownToPollEachDoes(t *testing.T) {
	for name, row := range map[string]struct {
		happens func(*kas)
		after   float64 // polls in the period after it
	}{
		"it is its own turn":         {func(k *kas) { k.replica.turn(false) }, 2},
		"it may have missed words":   {func(k *kas) { k.refs.Heard(nil) }, 1},
		"nothing":                    {func(*kas) {}, 0},
		"another one has taken over": {func(k *kas) { k.replica.turn(true) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, b, _ := two(t)
			began := b.clock.Now()
			row.happens(b)
			if row.after == 0 {
				b.step(period)
				b.polledItself(1)
				return
			}
			testkit.Eventually(t, func() error { // when exactly is left to chance
				b.step(period / 20)
				if n := b.polls(); n < 1+row.after {
					return fmt.Errorf("%v polls", n)
				}
				return nil
			})
			if passed := b.clock.Since(began); passed > safetyPeriods*period/2 {
				t.Errorf("it took %s", passed)
			}
		})
	}
}

func TestReplicas_WhoCannotSeeHasTheOthersLook(t *testing.T) {
	a, b, gitaly := two(t)
	gitaly.fail(status.Error(codes.Unavailable, "going down"))
	a.step(period)
	a.polledItself(2)
	b.polledItself(1)
	a.step(time.Second)
	assert.True(t, gitrepo.IsPassing(a.branch.next().Problem))
	gitaly.fail(nil) // which a does not see yet
	b.polledItself(2)
	gitaly.commit("refs/heads/main", "two", nil)
	b.step(period)
	assert.Equal(t, oid("two"), b.branch.next().CommitID)
	a.branch.next() // b has told it
	a.polledItself(4)
	b.polledItself(3)
	for i := range 5 { // all is as before
		a.step(period)
		b.step(period)
		a.polledItself(float64(i + 5))
	}
	if n := b.polls(); n > 4 { // one may have been due before it was told
		t.Errorf("it polled %v times though the other one can see again", n)
	}
}

func TestReplicas_TroubleIsNotLeftToOthers(t *testing.T) {
	_, b, gitaly := two(t)
	gitaly.fail(status.Error(codes.Unavailable, "going down"))
	b.step(safetyPeriods * period)
	b.polledItself(2)
	b.step(time.Second)
	assert.True(t, gitrepo.IsPassing(b.branch.next().Problem))
	gitaly.fail(nil)
	b.polledItself(3)
	b.step(period)
	assert.Equal(t, oid("one"), b.branch.next().CommitID)
}

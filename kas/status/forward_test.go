package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

// fakeRails is RoR: it keeps what it is told.
type fakeRails struct {
	mu    sync.Mutex
	posts []string
	fail  error
	hold  chan struct{} // posts wait here, unless nil
	peak  int
	now   int
}

func (r *fakeRails) PostSyncStatus(ctx context.Context, u *syncstatus.Update) error {
	r.mu.Lock()
	hold, fail := r.hold, r.fail
	r.now++
	r.peak = max(r.peak, r.now)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.now--
	}()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%d ", u.GetAgentId())
	switch {
	case u.GetStatus() != nil:
		text += fmt.Sprintf("%s %s %s", u.GetStatus().GetProjectId(), u.GetStatus().GetWantedCommit(),
			strings.TrimPrefix(u.GetStatus().GetState().String(), "STATE_"))
	case u.GetConfiguration() != nil:
		text += "configuration " + u.GetConfiguration().GetCommitId()
	default:
		text += "removed " + u.GetRemovedProjectId()
	}
	if fail != nil {
		text = "failed: " + text
	}
	r.posts = append(r.posts, text)
	return fail
}

func (r *fakeRails) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// wait waits for exactly these posts since the last call, in any order.
func (r *fakeRails) wait(t *testing.T, want ...string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if diff := cmp.Diff(sorted(want), sorted(r.posts)); diff != "" {
			return errors.New(diff)
		}
		r.posts = nil
		return nil
	})
}

func (r *fakeRails) none(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.posts) != 0 {
		t.Errorf("posted %v", r.posts)
	}
}

func sorted(all []string) map[string]int {
	counts := map[string]int{}
	for _, one := range all {
		counts[one]++
	}
	return counts
}

// running starts a store; the returned function stops it.
func running(t *testing.T, rails *fakeRails) (*Store, *clocktesting.FakeClock, func()) {
	t.Helper()
	store, clock := newStore(t, rails)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return store, clock, stop
}

// quiet waits until nothing is in flight and the forwarder sleeps on the clock.
func quiet(t *testing.T, store *Store) {
	t.Helper()
	testkit.Eventually(t, func() error {
		store.forward.mu.Lock()
		defer store.forward.mu.Unlock()
		if store.forward.inFlight > 0 {
			return errors.New("posts are in flight")
		}
		return nil
	})
}

// stepUntil moves the clock until the posts have come: only then has the forwarder set
// its timer for sure.
func stepUntil(t *testing.T, rails *fakeRails, clock *clocktesting.FakeClock, step time.Duration, want ...string) {
	t.Helper()
	testkit.Eventually(t, func() error {
		clock.Step(step)
		rails.mu.Lock()
		defer rails.mu.Unlock()
		if diff := cmp.Diff(sorted(want), sorted(rails.posts)); diff != "" {
			return errors.New(diff)
		}
		rails.posts = nil
		return nil
	})
}

func TestForward_FirstChangeAtOnceFurtherOnesTogether(t *testing.T) {
	rails := &fakeRails{}
	store, clock, _ := running(t, rails)
	store.Connected(seven, staging)
	rails.wait(t, "7 platform/staging  PENDING")
	quiet(t, store)
	for i := range 50 {
		store.Source(seven, staging, sourceOf(fmt.Sprint("c", i)))
	}
	rails.none(t)
	stepUntil(t, rails, clock, DefaultInterval, "7 platform/staging c49 SYNCING")
}

func TestForward_OnePostAtATimeForEachProject(t *testing.T) {
	rails := &fakeRails{hold: make(chan struct{})}
	store, clock, _ := running(t, rails)
	for i := range 20 {
		store.Connected(seven, fmt.Sprint("p", i))
	}
	testkit.Eventually(t, func() error {
		rails.mu.Lock()
		defer rails.mu.Unlock()
		if rails.now != parallelPosts {
			return fmt.Errorf("%d posts in flight", rails.now)
		}
		return nil
	})
	for i := range 20 {
		store.Source(seven, fmt.Sprint("p", i), sourceOf("c1"))
		store.Source(seven, fmt.Sprint("p", i), sourceOf("c2"))
	}
	close(rails.hold)
	testkit.Eventually(t, func() error {
		clock.Step(DefaultInterval)
		rails.mu.Lock()
		defer rails.mu.Unlock()
		newest := map[string]bool{}
		for _, post := range rails.posts {
			if strings.Contains(post, " c2 ") {
				newest[post] = true
			}
			if strings.Contains(post, " c1 ") {
				t.Fatalf("an old status was posted: %s", post)
			}
		}
		if len(newest) != 20 {
			return fmt.Errorf("%d of 20 projects are told", len(newest))
		}
		return nil
	})
	if rails.peak > parallelPosts {
		t.Errorf("%d posts at once", rails.peak)
	}
}

func TestForward_TellsAllAnewAfterRailsWasAway(t *testing.T) {
	rails := &fakeRails{}
	store, clock, _ := running(t, rails)
	store.Connected(seven, "p1")
	store.Connected(seven, "p2")
	rails.wait(t, "7 p1  PENDING", "7 p2  PENDING")
	quiet(t, store)

	rails.set(func() { rails.fail = fmt.Errorf("post: %w", gitlabapi.ErrUnavailable) })
	store.Source(seven, "p1", sourceOf("c1"))
	stepUntil(t, rails, clock, DefaultInterval, "failed: 7 p1 c1 SYNCING")
	quiet(t, store)
	store.Source(seven, "p1", sourceOf("c2"))
	store.Source(seven, "p2", sourceOf("c2")) // waits as well: one probe is enough
	rails.none(t)

	rails.set(func() { rails.fail = nil })
	stepUntil(t, rails, clock, 100*time.Millisecond, "7 p1 c2 SYNCING", "7 p2 c2 SYNCING")
	quiet(t, store)
	store.Source(seven, "p1", sourceOf("c3"))
	stepUntil(t, rails, clock, DefaultInterval, "7 p1 c3 SYNCING")
}

func TestForward_RefusedUpdateIsNotOfferedAgain(t *testing.T) {
	rails := &fakeRails{fail: fmt.Errorf("post: %w", gitlabapi.ErrNotFound)}
	store, clock, _ := running(t, rails)
	store.Connected(seven, staging)
	rails.wait(t, "failed: 7 platform/staging  PENDING")
	quiet(t, store)
	clock.Step(time.Minute)
	quiet(t, store)
	rails.none(t)
	rails.set(func() { rails.fail = nil })
	store.Source(seven, staging, sourceOf("c1"))
	rails.wait(t, "7 platform/staging c1 SYNCING")
}

func TestForward_RailsThatTakesNoStatusesIsLeftAlone(t *testing.T) {
	rails := &fakeRails{fail: fmt.Errorf("post: %w", gitlabapi.ErrNoEndpoint)}
	store, clock, _ := running(t, rails)
	store.Connected(seven, "p1")
	rails.wait(t, "failed: 7 p1  PENDING")
	quiet(t, store)
	store.Connected(seven, "p2")
	store.Source(seven, "p1", sourceOf("c1"))
	clock.Step(absentRetry - time.Second)
	quiet(t, store)
	rails.none(t)
	clock.Step(time.Second) // one probe, of whichever
	testkit.Eventually(t, func() error {
		rails.mu.Lock()
		defer rails.mu.Unlock()
		if len(rails.posts) != 1 {
			return fmt.Errorf("posted %v", rails.posts)
		}
		rails.posts, rails.fail = nil, nil
		return nil
	})
	quiet(t, store)
	rails.none(t)
	stepUntil(t, rails, clock, absentRetry, "7 p1 c1 SYNCING", "7 p2  PENDING") // RoR was updated
}

func TestForward_TellsOfRemovedProjectsAndConfigurations(t *testing.T) {
	rails := &fakeRails{}
	store, clock, _ := running(t, rails)
	store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "g1"}, []string{"p1"})
	rails.wait(t, "7 configuration g1", "7 p1  OFFLINE")
	quiet(t, store)
	store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "g2"}, []string{})
	stepUntil(t, rails, clock, DefaultInterval, "7 configuration g2", "7 removed p1")
	testkit.Eventually(t, func() error {
		store.mu.Lock()
		defer store.mu.Unlock()
		if n := len(store.agents[7].removed); n != 0 {
			return fmt.Errorf("%d removed projects are still remembered", n)
		}
		return nil
	})
}

func TestForward_LastWordsAreSaidBeforeRunEnds(t *testing.T) {
	rails := &fakeRails{}
	store, _, stop := running(t, rails)
	store.Connected(seven, staging)
	rails.wait(t, "7 platform/staging  PENDING")
	quiet(t, store)
	store.Source(seven, staging, sourceOf("c1")) // due in an interval that never comes
	stop()
	rails.wait(t, "7 platform/staging c1 SYNCING")
	store.Disconnected(seven, staging) // because kas ends: no news of the agent
	if n := store.forward.backlog(); n != 0 {
		t.Errorf("%v statuses wait", n)
	}
}

func TestForward_EndsInTimeWhenRailsHangs(t *testing.T) {
	rails := &fakeRails{hold: make(chan struct{})}
	store, _, stop := running(t, rails)
	store.Connected(seven, staging)
	testkit.Eventually(t, func() error {
		rails.mu.Lock()
		defer rails.mu.Unlock()
		if rails.now == 0 {
			return errors.New("nothing in flight")
		}
		return nil
	})
	stop() // within lastWords, else the test times out
}

func BenchmarkRender_TenThousandObjects(b *testing.B) {
	s := snapshot{key: Key{7, staging}, source: sourceOf("c1"), report: reported{commit: "c1", applied: "c1", readyAt: timestamppb.New(epoch)}}
	for i := range 10_000 {
		s.objects = append(s.objects, object(fmt.Sprint(i), syncstatus.Action_ACTION_CREATED, syncstatus.Health_HEALTH_CURRENT))
	}
	for b.Loop() {
		render(s, true)
	}
}

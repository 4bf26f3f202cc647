package agents

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/answers"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeRails is RoR.
type fakeRails struct {
	mu      sync.Mutex
	agents  map[string]gitlabapi.AgentInfo // by token
	err     error                          // in place of every answer
	asked   int
	hold    chan struct{} // questions wait here, unless nil
	configs []*agentcfg.ConfigurationFile
	refuse  error // of configurations
}

func newFakeRails() *fakeRails {
	return &fakeRails{agents: map[string]gitlabapi.AgentInfo{"good": seven()}}
}

func seven() gitlabapi.AgentInfo {
	return gitlabapi.AgentInfo{
		ProjectID: 3, AgentID: 7, AgentName: "seven",
		GitalyInfo:       gitlabapi.GitalyInfo{Address: "tcp://gitaly", Features: map[string]string{"f": "true"}},
		GitalyRepository: gitlabapi.GitalyRepository{StorageName: "default", RelativePath: "a.git"},
	}
}

func (r *fakeRails) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *fakeRails) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *fakeRails) AgentInfo(_ context.Context, token string) (gitlabapi.AgentInfo, error) {
	r.mu.Lock()
	r.asked++
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		<-hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return gitlabapi.AgentInfo{}, r.err
	}
	info, ok := r.agents[token]
	if !ok {
		return gitlabapi.AgentInfo{}, fmt.Errorf("agent_info: %w", gitlabapi.ErrUnauthorized)
	}
	return info, nil
}

func (r *fakeRails) ProjectInfo(_ context.Context, token, id string) (gitlabapi.ProjectInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	switch {
	case r.err != nil:
		return gitlabapi.ProjectInfo{}, r.err
	case token != "good" || id != "a/b":
		return gitlabapi.ProjectInfo{}, fmt.Errorf("project_info: %w", gitlabapi.ErrNotFound)
	}
	return gitlabapi.ProjectInfo{ProjectID: 4}, nil
}

func (r *fakeRails) PostAgentConfiguration(_ context.Context, _ int64, cfg *agentcfg.ConfigurationFile) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.configs = append(r.configs, cfg)
	return r.refuse
}

func newAccess(t *testing.T, rails Rails) (*Access, *clocktesting.FakeClock) {
	t.Helper()
	clock := clocktesting.NewFakeClock(epoch)
	access, err := NewAccess(AccessConfig{
		InfoTTL: 5 * time.Minute, InfoErrorTTL: time.Minute,
		ProjectTTL: 5 * time.Minute, ProjectErrorTTL: time.Minute,
		Clock: clock,
	}, rails, testkit.Logger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return access, clock
}

var errAway = fmt.Errorf("dial: %w", gitlabapi.ErrUnavailable)

func TestAccess_BelievesRailsForAWhile(t *testing.T) {
	rails := newFakeRails()
	access, clock := newAccess(t, rails)
	for _, step := range []struct {
		what   string
		change func()
		wait   time.Duration
		token  string
		want   codes.Code
		asked  int // in all
	}{
		{"RoR is asked", nil, 0, "good", codes.OK, 1},
		{"its answer is remembered", nil, 4 * time.Minute, "good", codes.OK, 1},
		{"a refusal is an answer", nil, 0, "bad", codes.Unauthenticated, 2},
		{"and remembered", nil, 59 * time.Second, "bad", codes.Unauthenticated, 2},
		{"but not for long", nil, 2 * time.Second, "bad", codes.Unauthenticated, 3},
		{"a revoked token is refused in time", func() { delete(rails.agents, "good") }, time.Minute, "good", codes.Unauthenticated, 4},
		{"and good again once it is", func() { rails.agents["good"] = seven() }, time.Minute, "good", codes.OK, 5},
		{"while RoR is away the old answer serves", func() { rails.err = errAway }, 5 * time.Minute, "good", codes.OK, 6},
		{"and RoR is left alone for a moment", nil, answers.StaleRetry - time.Second, "good", codes.OK, 6},
		{"but then asked again", nil, 2 * time.Second, "good", codes.OK, 7},
		{"an unknown token is not let in", nil, 0, "other", codes.Unavailable, 8},
		{"and trouble is not remembered", nil, 0, "other", codes.Unavailable, 9},
		{"nor a refused one when the refusal is old", nil, time.Hour - 10*time.Minute, "bad", codes.Unavailable, 10},
		{"after an hour no old answer serves", nil, 11 * time.Minute, "good", codes.Unavailable, 11},
		{"RoR is back", func() { rails.err = nil }, 0, "good", codes.OK, 12},
	} {
		if step.change != nil {
			rails.set(step.change)
		}
		clock.Step(step.wait)
		info, err := access.Agent(t.Context(), step.token)
		if status.Code(err) != step.want || rails.questions() != step.asked {
			t.Fatalf("%s: got %v and %d questions, want %s and %d", step.what, err, rails.questions(), step.want, step.asked)
		}
		if err == nil && info.AgentID != 7 {
			t.Fatalf("%s: got %v", step.what, info)
		}
	}
}

func TestAccess_SaysWhatToDo(t *testing.T) {
	for name, row := range map[string]struct {
		err  error
		want string
	}{
		"an unknown token": {gitlabapi.ErrUnauthorized, "rpc error: code = Unauthenticated desc = the agent token is unknown or revoked: create a new one and put it into agentk's token file"},
		"not allowed":      {gitlabapi.ErrForbidden, `rpc error: code = PermissionDenied desc = project "x": RoR does not allow it`},
		"no such project":  {gitlabapi.ErrNotFound, `rpc error: code = NotFound desc = project "x": there is no such thing, or the agent may not read it`},
		"RoR is away":      {errAway, `rpc error: code = Unavailable desc = project "x": RoR cannot be asked about it now`},
		"anything else":    {errors.New("10.0.0.1 broke"), `rpc error: code = Unavailable desc = project "x": RoR cannot be asked about it now`},
	} {
		t.Run(name, func(t *testing.T) {
			rails := newFakeRails()
			rails.err = row.err
			access, _ := newAccess(t, rails)
			if _, err := access.Project(t.Context(), "good", "x"); err == nil || err.Error() != row.want {
				t.Errorf("got  %v\nwant %s", err, row.want)
			}
		})
	}
}

func TestAccess_ProjectsAreKnownByTokenAndName(t *testing.T) {
	rails := newFakeRails()
	access, _ := newAccess(t, rails)
	for range 2 {
		if info, err := access.Project(t.Context(), "good", "a/b"); err != nil || info.ProjectID != 4 {
			t.Errorf("got %v, %v", info, err)
		}
		for _, other := range [][2]string{{"good", "a/c"}, {"other", "a/b"}} {
			if _, err := access.Project(t.Context(), other[0], other[1]); status.Code(err) != codes.NotFound {
				t.Errorf("%v: got %v", other, err)
			}
		}
	}
	if n := rails.questions(); n != 3 {
		t.Errorf("%d questions", n)
	}
}

func TestAccess_ManyCallersAskOnce(t *testing.T) {
	rails := newFakeRails()
	rails.hold = make(chan struct{})
	access, _ := newAccess(t, rails)
	var wg sync.WaitGroup
	var begun sync.WaitGroup
	for range 50 {
		wg.Add(1)
		begun.Add(1)
		go func() {
			defer wg.Done()
			begun.Done()
			if _, err := access.Agent(t.Context(), "good"); err != nil {
				t.Error(err)
			}
		}()
	}
	begun.Wait()
	// One that gives up costs the others nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := access.Agent(ctx, "good"); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	close(rails.hold)
	wg.Wait()
	if n := rails.questions(); n != 1 {
		t.Errorf("%d questions", n)
	}
}

// guard runs a Guard; the channel has what it returns.
func guard(t *testing.T, access *Access) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g := access.NewGuard("good", seven())
		defer g.End()
		defer cancel()
		done <- g.Wait(ctx, nil)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return done
}

// guardedUntil steps the clock until the Guard returns.
func guardedUntil(t *testing.T, clock *clocktesting.FakeClock, done <-chan error) error {
	t.Helper()
	var got error
	testkit.Eventually(t, func() error {
		select {
		case got = <-done:
			return nil
		default:
			clock.Step(time.Minute)
			return errors.New("still guarding")
		}
	})
	return got
}

func TestGuard_EndsWhenTheTokenIsRevoked(t *testing.T) {
	rails := newFakeRails()
	access, clock := newAccess(t, rails)
	done := guard(t, access)
	testkit.Eventually(t, func() error {
		if !clock.HasWaiters() {
			return errors.New("not waiting")
		}
		return nil
	})
	rails.set(func() { delete(rails.agents, "good") })
	// Exactly when the answer expires, not later.
	clock.Step(5 * time.Minute)
	if err := <-done; status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

func TestGuard_EndsWhenTheAgentMoved(t *testing.T) {
	rails := newFakeRails()
	access, clock := newAccess(t, rails)
	done := guard(t, access)
	moved := seven()
	moved.GitalyInfo.Address = "tcp://elsewhere"
	rails.set(func() { rails.agents["good"] = moved })
	if err := guardedUntil(t, clock, done); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestGuard_OutlivesRailsAbsence(t *testing.T) {
	rails := newFakeRails()
	access, clock := newAccess(t, rails)
	done := guard(t, access)
	testkit.Eventually(t, func() error {
		if !clock.HasWaiters() {
			return errors.New("not waiting")
		}
		return nil
	})
	rails.set(func() { rails.err = errAway })
	began := rails.questions()
	testkit.Eventually(t, func() error {
		clock.Step(time.Hour)
		if rails.questions() < began+5 {
			return errors.New("not asked often enough")
		}
		return nil
	})
	select {
	case err := <-done:
		t.Fatalf("ended with %v", err)
	default:
	}
	rails.set(func() { rails.err = gitlabapi.ErrForbidden })
	if err := guardedUntil(t, clock, done); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

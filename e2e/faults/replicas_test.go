package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

// boundOfFailure is how soon whoever asks must be told that the answer will not come. The
// pings between two kas alone take up to 7 s to find that out, on a machine that has nothing
// else to do; whoever is not told at all waits for foundWithin, or for ever.
const boundOfFailure = 30 * time.Second

// TestReplicas breaks what several kas that act as one consist of. They poll so seldom that
// nothing is found out unless somebody is told.
func TestReplicas(t *testing.T) {
	owner := env.NewUnconfigured(t)
	r := &replicas{owner.NewReplicas(3, time.Hour)}
	t.Run("each of them answers", r.eachAnswers)
	t.Run("an agent moves", r.agentMoves)
	t.Run("watches begin at any of them, at any moment", r.watchesBegin)
	t.Run("one is replaced", r.oneIsReplaced)
	t.Run("a token is revoked", r.tokenRevoked)
	t.Run("one is killed in mid-call and mid-watch", r.oneIsKilled)
	t.Run("two of them cannot reach each other", r.partition)
	t.Run("Redis is away", r.redisAway)
}

// replicas are three kas that act as one.
type replicas struct{ *harness.Replicas }

// synced is a fixture whose agent is connected to one of the kas, through a load balancer,
// and has synced a commit.
func (r *replicas) synced(t *testing.T, kas int) (*harness.Fixture, *harness.Relay, string) {
	t.Helper()
	f := env.NewStopped(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	balancer := f.NewBalancer(r.Addresses(kas)...)
	f.Agentk = f.NewAgentkOf(balancer.Address, "agentk")
	f.Start(f.Agentk)
	f.WaitSynced(commit)
	return f, balancer, commit
}

// change pushes another value of the ConfigMap, and tells one of the kas.
func (r *replicas) change(f *harness.Fixture, value string, kas int) string {
	f.T.Helper()
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", value))
	commit := f.Manifests.Push("Change")
	r.Pushed(f, kas)
	return commit
}

func (r *replicas) eachAnswers(t *testing.T) {
	f, _, commit := r.synced(t, 0)
	for i, kas := range r.Kas {
		r.WaitStatus(f, i, harness.Is(syncstatus.State_STATE_SYNCED, commit))
		f.Eventually(func() error {
			agents, err := r.Connected(f, i)
			if err == nil && len(agents) != 1 {
				err = fmt.Errorf("kas %d says that %v are connected", i, agents)
			}
			return err
		})
		if err := getWithin(f, f.ClusterStateAt(kas.APIAddress), "a", harness.AnswerTimeout); err != nil {
			t.Errorf("kas %d: %v", i, err)
		}
	}
	for i, kas := range r.Kas {
		// It reaches the agent's kas, whichever is told.
		commit = r.change(f, fmt.Sprint("v", i), i)
		f.WaitConfigMap("a", fmt.Sprint("v", i))
		for j := range r.Kas {
			r.WaitStatus(f, j, harness.Is(syncstatus.State_STATE_SYNCED, commit))
		}
		controls := f.ControlsAt(kas.APIAddress)
		if diff, err := controls.Diff(""); err != nil || diff.Commit != commit {
			t.Errorf("kas %d: compared %+v: %v", i, diff, err)
		}
		if err := errors.Join(controls.Sync(), controls.Suspend()); err != nil {
			t.Errorf("kas %d: %v", i, err)
		}
		r.WaitStatus(f, (i+1)%len(r.Kas), harness.Is(syncstatus.State_STATE_SUSPENDED, commit))
		if err := controls.Resume(); err != nil {
			t.Errorf("kas %d: resume: %v", i, err)
		}
	}
}

// statuses are what one of the kas tells of the fixture's project, until the test ends.
type statuses struct {
	mu  sync.Mutex
	all []*syncstatus.ProjectStatus
}

func (r *replicas) watch(f *harness.Fixture, kas int) *statuses {
	f.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	client := railsrpc.NewSyncStatusClient(f.DialAPI(r.Kas[kas].APIAddress))
	stream, err := client.Watch(ctx, &railsrpc.WatchRequest{AgentId: f.Agent.ID})
	if err != nil {
		cancel()
		f.T.Fatal(err)
	}
	s, ended := &statuses{}, make(chan struct{})
	go func() {
		defer close(ended)
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.all = append(s.all, response.GetStatus())
			s.mu.Unlock()
		}
	}()
	f.T.Cleanup(func() { cancel(); <-ended })
	return s
}

// states that were told, repetitions left out.
func (s *statuses) states() []syncstatus.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []syncstatus.State
	for _, one := range s.all {
		all = append(all, one.GetState())
	}
	return slices.Compact(all)
}

func (s *statuses) wait(f *harness.Fixture, check func(*syncstatus.ProjectStatus) error) {
	f.T.Helper()
	f.Eventually(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.all) == 0 {
			return errors.New("nothing was told")
		}
		return check(s.all[len(s.all)-1])
	})
}

func (r *replicas) agentMoves(t *testing.T) {
	f, balancer, commit := r.synced(t, 0)
	seen := r.watch(f, 2)
	seen.wait(f, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	balancer.Prefer(r.Addresses(1)...)
	balancer.Cut()
	f.Eventually(func() error {
		if n := f.Metrics(r.Kas[1].MetricsURL).Sum("kas_push_streams"); n != 1 {
			return fmt.Errorf("the other kas has %v streams", n)
		}
		return nil
	})
	commit = r.change(f, "2", 0)
	f.WaitSynced(commit)
	seen.wait(f, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	for _, state := range seen.states() {
		switch state {
		case syncstatus.State_STATE_OFFLINE, syncstatus.State_STATE_UNSPECIFIED:
			t.Errorf("told %v", seen.states())
		}
	}
	for i := range r.Kas {
		r.WaitStatus(f, i, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	}
}

// watchRounds is how often an agent moves on while watches of it begin.
const watchRounds = 3

// Watches begin while the agent is on its way from one kas to the next, and go on while it
// goes on: nobody waits in vain, wherever he asks.
func (r *replicas) watchesBegin(t *testing.T) {
	f, balancer, _ := r.synced(t, 0)
	var before []*harness.Watch
	for round := range watchRounds {
		balancer.Prefer(r.Addresses(round + 1)...)
		balancer.Cut()
		query := maps(f)
		query.LabelSelector = fmt.Sprintf("round!=%d", round) // true of all, and asked by nobody before
		fresh := make([]*harness.Watch, len(r.Kas))
		for i, kas := range r.Kas {
			fresh[i] = f.ClusterStateAt(kas.APIAddress).Watch(query)
		}
		for i, kas := range r.Kas {
			f.Eventually(func() error {
				if fresh[i].Times(harness.ToldSynced) > 0 {
					return nil
				}
				if err := fresh[i].Ended(); status.Code(err) == codes.Unavailable { // its first question was cut off
					fresh[i] = f.ClusterStateAt(kas.APIAddress).Resume(fresh[i])
				} else if err != nil {
					t.Fatal(err)
				}
				return fmt.Errorf("kas %d has told a watch only %v", i, fresh[i].Told())
			})
		}
		put(f, fmt.Sprint("round-", round), "1")
		for _, w := range append(before, fresh...) {
			catchUp(f, w)
		}
		for _, w := range before {
			w.Stop()
		}
		before = fresh
	}
}

func (r *replicas) oneIsReplaced(t *testing.T) {
	f, _, commit := r.synced(t, 0)
	seen := r.watch(f, 2)
	seen.wait(f, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	stopped := make(chan error, 1)
	go func() { stopped <- r.Kas[0].Stop() }()
	f.Eventually(func() error {
		if s, err := r.Status(f, 2); err != nil || s.GetState() != syncstatus.State_STATE_SYNCED {
			t.Errorf("another kas says %v: %v", s, err)
		}
		if n := f.Metrics(r.Kas[1].MetricsURL).Sum("kas_push_streams"); n != 1 {
			return fmt.Errorf("the next kas has %v streams", n)
		}
		return nil
	})
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	f.Start(r.Kas[0])
	commit = r.change(f, "2", 0)
	f.WaitSynced(commit)
	seen.wait(f, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	if slices.Contains(seen.states(), syncstatus.State_STATE_OFFLINE) {
		t.Errorf("told %v", seen.states())
	}
}

func (r *replicas) tokenRevoked(t *testing.T) {
	f, _, _ := r.synced(t, 0)
	if err := f.Client().RevokeToken(t.Context(), f.Config.Path, f.Agent.ID, f.Token.ID); err != nil {
		t.Fatal(err)
	}
	notifications := railsrpc.NewNotificationsClient(f.DialAPI(r.Kas[1].APIAddress))
	begun := time.Now()
	if _, err := notifications.AgentTokenRevoked(t.Context(), &railsrpc.AgentTokenRevokedRequest{AgentId: f.Agent.ID}); err != nil {
		t.Fatal(err)
	}
	f.Eventually(func() error { return contains(f.Agentk.LogTail(), "token unknown or revoked") })
	if took := time.Since(begun); took > boundOfFailure {
		t.Errorf("it took %s", took)
	}
}

func (r *replicas) oneIsKilled(t *testing.T) {
	f, _, commit := r.synced(t, 0)
	lost, _, lostCommit := r.synced(t, 0) // its agent dies together with the kas
	direct, other := f.ClusterStateAt(r.Kas[0].APIAddress), f.ClusterStateAt(r.Kas[1].APIAddress)
	watches := []*harness.Watch{direct.Watch(maps(f)), other.Watch(maps(f))}
	for _, w := range watches {
		w.WaitTold(harness.ToldSynced)
	}
	r.WaitStatus(f, 1, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	seen := r.watch(f, 1)

	lost.Pause(lost.Agentk.Process)   // so that it goes nowhere else
	goOn := f.Pause(f.Agentk.Process) // so that a call is under way for sure
	answered := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), foundWithin)
	defer cancel()
	go func() { answered <- get(ctx, other, f, "a") }()
	f.Eventually(func() error {
		if n := f.Metrics(r.Kas[0].MetricsURL).Sum("kas_tunnel_streams", `state="busy"`); n < 3 {
			return fmt.Errorf("%v streams are busy", n)
		}
		return nil
	})
	begun := time.Now()
	r.Kas[0].Kill()
	lost.Agentk.Kill()
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call under way ended with %v", err)
	}
	if took := time.Since(begun); took > boundOfFailure {
		t.Errorf("whoever asked waited for %s", took)
	}
	// What the agent said last is known, though who heard it is gone.
	if s, err := r.Status(f, 1); err != nil || s.GetAppliedCommit() != commit || len(s.GetObjects()) != 1 {
		t.Errorf("another kas says %v: %v", s, err)
	}
	goOn()
	put(f, "b", "1")
	if code := watches[0].WaitEnded(); code != codes.Unavailable {
		t.Errorf("the watch at the kas that was killed ended with %v", code)
	}
	// Whoever watched there goes on at another one, and who watched there notices nothing.
	watches[0] = resume(f, f.ClusterStateAt(r.Kas[2].APIAddress), watches[0])
	for _, w := range watches {
		catchUp(f, w)
		if n := w.Times(harness.ToldReset); n > 1 {
			t.Errorf("a watch began anew %d times: %v", n-1, w.Told())
		}
	}
	put(f, "c", "1")
	for _, w := range watches {
		catchUp(f, w)
	}
	commit = r.change(f, "2", 2)
	f.WaitSynced(commit)
	seen.wait(f, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	if slices.Contains(seen.states(), syncstatus.State_STATE_OFFLINE) {
		t.Errorf("told %v", seen.states())
	}
	f.Start(r.Kas[0])
	r.WaitStatus(f, 0, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	f.Eventually(func() error { return getWithin(f, f.ClusterStateAt(r.Kas[0].APIAddress), "b", 5*time.Second) })
	// Of who comes to none of them RoR is told all the same.
	if s := lost.WaitStatus(harness.Is(syncstatus.State_STATE_OFFLINE, lostCommit)); s.GetConnected() || s.GetAppliedCommit() != lostCommit {
		t.Errorf("RoR says %v", s)
	}
}

func (r *replicas) partition(t *testing.T) {
	f, _, commit := r.synced(t, 0)
	r.WaitStatus(f, 1, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	state := f.ClusterStateAt(r.Kas[1].APIAddress)
	f.Eventually(func() error { return getWithin(f, state, "a", 5*time.Second) })

	end := r.Between[0].BlackHole()
	begun := time.Now()
	failed := make(chan error, 2)
	go func() { failed <- getWithin(f, state, "a", foundWithin) }()
	go func() { failed <- f.ControlsAt(r.Kas[1].APIAddress).Sync() }()
	for range cap(failed) {
		if err := <-failed; status.Code(err) != codes.Unavailable {
			t.Errorf("whoever asked was told %v", err)
		}
	}
	if took := time.Since(begun); took > boundOfFailure {
		t.Errorf("it took %s until whoever asked was told", took)
	}
	// What needs no way between the two goes on: the agent, its status, notifications.
	commit = r.change(f, "2", 1)
	f.WaitSynced(commit)
	r.WaitStatus(f, 1, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	own := f.ClusterStateAt(r.Kas[0].APIAddress)
	f.Eventually(func() error { return getWithin(f, own, "a", 5*time.Second) })
	end()
	f.Eventually(func() error { return getWithin(f, state, "a", 5*time.Second) })
	f.Eventually(f.ControlsAt(r.Kas[1].APIAddress).Sync)
}

func (r *replicas) redisAway(t *testing.T) {
	f, _, commit := r.synced(t, 0)
	r.WaitStatus(f, 1, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	f.Eventually(func() error { return getWithin(f, f.ClusterStateAt(r.Kas[1].APIAddress), "a", 5*time.Second) })
	r.Redis.Process.Kill()

	// Where the agent is connected everything goes on.
	commit = r.change(f, "2", 0)
	f.WaitSynced(commit)
	r.WaitStatus(f, 0, harness.Is(syncstatus.State_STATE_SYNCED, commit))
	own := f.ClusterStateAt(r.Kas[0].APIAddress)
	f.Eventually(func() error { return getWithin(f, own, "a", 5*time.Second) })
	if err := f.ControlsAt(r.Kas[0].APIAddress).Sync(); err != nil {
		t.Error(err)
	}
	// Agents come all the same.
	late, _, lateCommit := r.synced(t, 1)
	if _, err := r.Status(late, 2); status.Code(err) != codes.NotFound {
		t.Errorf("a kas that cannot know says %v", err)
	}

	f.Start(r.Redis.Process) // it has forgotten everything
	for i, kas := range r.Kas {
		r.WaitStatus(f, i, harness.Is(syncstatus.State_STATE_SYNCED, commit))
		r.WaitStatus(late, i, harness.Is(syncstatus.State_STATE_SYNCED, lateCommit))
		late.Eventually(func() error { return getWithin(late, late.ClusterStateAt(kas.APIAddress), "a", 5*time.Second) })
		late.Eventually(late.ControlsAt(kas.APIAddress).Sync)
	}
	// Those who are told tell each other again.
	f.WaitSynced(r.change(f, "3", 2))
}

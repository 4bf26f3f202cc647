package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestReplicas_AnyOneTells(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	a.arrive()
	a.follow("c1", "x", "y")
	want := a.state(syncstatus.State_STATE_SYNCED, "x", "y")
	got := b.state(syncstatus.State_STATE_SYNCED, "x", "y")
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&syncstatus.ProjectStatus{}, "updated_at")); diff != "" {
		t.Error(diff)
	}
	list, configuration := b.store.List(t.Context(), 7)
	if len(list) != 1 || list[0].GetCounts().GetTotal() != 2 || len(list[0].GetObjects()) != 0 || configuration.GetCommitId() != "cfg" {
		t.Errorf("it lists %v, %v", list, configuration)
	}
	r.pass(10 * time.Second)
	if got := r.told(); len(got) == 0 || got[len(got)-1] != "c1 SYNCED" || slices.Contains(got[1:], "c1 SYNCED") && len(got) > 3 {
		t.Errorf("RoR was told %q", got)
	}

	// What leaves the configuration is gone everywhere.
	a.store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "cfg2"}, []string{})
	testkit.Eventually(t, func() error {
		r.clock.Step(10 * time.Millisecond)
		list, configuration := b.store.List(t.Context(), 7)
		if len(list) != 0 || configuration.GetCommitId() != "cfg2" {
			return fmt.Errorf("it lists %v, %v", list, configuration)
		}
		return nil
	})
}

func TestReplicas_WatchFollowsWhatOthersTell(t *testing.T) {
	for name, deaf := range map[string]bool{"told": false, "not told": true} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.deaf = deaf
			a, b := r.join("a"), r.join("b")
			a.arrive()
			a.follow("c1", "x")
			b.state(syncstatus.State_STATE_SYNCED, "x")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			got, ended := make(chan string, 100), make(chan error, 1)
			go func() {
				ended <- b.store.Watch(ctx, 7, "", func(p *syncstatus.ProjectStatus) error {
					got <- p.GetWantedCommit()
					return nil
				})
			}()
			want := func(commit string) {
				testkit.Eventually(t, func() error {
					r.clock.Step(time.Second)
					select {
					case c := <-got:
						if c != commit {
							t.Errorf("told %s, want %s", c, commit)
						}
						return nil
					default:
						return errors.New("told nothing")
					}
				})
			}
			want("c1")
			a.store.Source(seven, staging, sourceOf("c2"))
			want("c2")
			r.pass(30 * time.Second)
			if len(got) > 0 {
				t.Errorf("told again of %s though nothing changed", <-got)
			}
			cancel()
			<-ended
		})
	}
}

func TestReplicas_AnAgentThatMovesIsNeverSaidToBeAway(t *testing.T) {
	for name, row := range map[string]struct{ move func(a, b *member) }{
		"it comes before it goes": {func(a, b *member) {
			b.arrive()
			b.follow("c1", "x")
			a.unfollow()
			a.leave()
		}},
		"it goes before it comes": {func(a, b *member) {
			a.unfollow()
			a.leave()
			a.pass(2 * time.Second)
			b.arrive()
			b.pass(time.Second)
			b.follow("c1", "x")
		}},
		"its replica is killed": {func(a, b *member) {
			a.kill()
			b.pass(2 * time.Second)
			b.arrive()
			b.follow("c1", "x")
		}},
		"its replica ends": {func(a, b *member) {
			a.stop()
			a.unfollow()
			a.leave()
			b.arrive()
			b.follow("c1", "x")
		}},
		"it reports before its repository is read": {func(a, b *member) {
			a.unfollow()
			a.leave()
			b.arrive()
			b.store.Connected(seven, staging)
			b.store.Report(seven, staging, reportOf("c1", healthy("x")...))
			b.pass(time.Second)
			b.store.Source(seven, staging, sourceOf("c1"))
		}},
		"messages get lost": {func(a, b *member) {
			a.deaf = true
			b.arrive()
			b.follow("c1", "x")
			a.unfollow()
			a.leave()
		}},
		"nobody can ask": {func(a, b *member) {
			a.set(func() { a.away = true })
			b.arrive()
			b.follow("c1", "x")
			a.unfollow()
			a.leave()
			a.pass(20 * time.Second)
			a.set(func() { a.away = false })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			a, b, c := r.join("a"), r.join("b"), r.join("c")
			a.arrive()
			a.follow("c1", "x")
			b.state(syncstatus.State_STATE_SYNCED, "x")
			r.pass(5 * time.Second)
			before := len(r.told())
			row.move(a, b)
			r.pass(20 * time.Second)
			for _, text := range r.told()[before:] {
				if text != "c1 SYNCED" {
					t.Errorf("RoR was told %q", text)
				}
			}
			b.state(syncstatus.State_STATE_SYNCED, "x")
			c.state(syncstatus.State_STATE_SYNCED, "x")
			a.state(syncstatus.State_STATE_SYNCED, "x")
			// And it is b that speaks.
			b.store.Source(seven, staging, sourceOf("c2"))
			testkit.Eventually(t, func() error {
				r.clock.Step(100 * time.Millisecond)
				if told := r.told(); told[len(told)-1] != "c2 SYNCING" {
					return fmt.Errorf("RoR was told %q", told)
				}
				return nil
			})
			c.state(syncstatus.State_STATE_SYNCING, "x")
		})
	}
}

func TestReplicas_AStreamThatIsDeadDoesNotSpeak(t *testing.T) {
	r := newRoom(t)
	a, b, c := r.join("a"), r.join("b"), r.join("c")
	a.arrive()
	a.follow("c1", "x")
	r.pass(5 * time.Second)
	// The agent has lost its connection to a, which goes on believing in it.
	b.arrive()
	b.follow("c1", "x")
	r.pass(5 * time.Second)
	b.store.Source(seven, staging, sourceOf("c2"))
	b.store.Report(seven, staging, reportOf("c2", healthy("x")...))
	r.pass(time.Second)
	before := r.told()
	a.store.Source(seven, staging, sourceOf("c2"))
	r.pass(10 * time.Second)
	if told := r.told(); !slices.Equal(told, before) {
		t.Errorf("RoR was told %q, and %q before the dead stream's kas saw the commit", told, before)
	}
	for _, m := range []*member{a, b, c} {
		if p := m.state(syncstatus.State_STATE_SYNCED, "x"); p.GetWantedCommit() != "c2" {
			t.Errorf("%s says %v", m.url, p)
		}
	}
	a.unfollow()
	a.leave()
	r.pass(20 * time.Second)
	if told := r.told(); told[len(told)-1] != "c2 SYNCED" {
		t.Errorf("RoR was told %q", told)
	}
	c.state(syncstatus.State_STATE_SYNCED, "x")
	// And where it was not dead after all, the agent's word counts.
	a.arrive()
	a.follow("c3", "x", "y")
	c.state(syncstatus.State_STATE_SYNCED, "x", "y")
}

func TestReplicas_AnAgentThatIsAwayIsSaidToBe(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	a.arrive()
	a.follow("c1", "x")
	b.state(syncstatus.State_STATE_SYNCED, "x")
	r.pass(2 * time.Second)
	before := len(r.told())
	a.unfollow()
	a.leave()
	r.pass(4 * time.Second)
	if told := r.told()[before:]; len(told) != 0 {
		t.Errorf("RoR was told %q though it may come back", told)
	}
	r.pass(20 * time.Second)
	if got := r.told()[before:]; !slices.Equal(got, []string{"c1 OFFLINE"}) {
		t.Errorf("RoR was told %q", got)
	}
	for _, m := range []*member{a, b} {
		if p := m.state(syncstatus.State_STATE_OFFLINE, "x"); p.GetConnected() || !strings.Contains(p.GetMessage(), "not connected") {
			t.Errorf("%s says %v", m.url, p)
		}
	}
}

func TestReplicas_OneIsKilledAndTheAgentStaysAway(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	a.arrive()
	a.follow("c1", "x")
	b.state(syncstatus.State_STATE_SYNCED, "x")
	a.kill()
	b.state(syncstatus.State_STATE_SYNCED, "x") // it may be on its way to b
	r.pass(6 * time.Second)
	if p := b.state(syncstatus.State_STATE_OFFLINE, "x"); p.GetConnected() || p.GetAppliedCommit() != "c1" {
		t.Errorf("it says %v", p)
	}
}

func TestReplicas_AnAgentThatStandsByAtAnotherOne(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	b.arrive() // and stands by
	a.arrive()
	a.follow("c1", "x")
	r.pass(30 * time.Second)
	for _, m := range []*member{a, b} {
		m.state(syncstatus.State_STATE_SYNCED, "x")
	}
	for _, text := range r.told() {
		if text == "c1 SYNCED" || text == " PENDING" {
			continue
		}
		t.Errorf("RoR was told %q", text)
	}
	before := len(r.told())
	a.kill()
	r.pass(30 * time.Second)
	if p := b.state(syncstatus.State_STATE_OFFLINE, "x"); !strings.Contains(p.GetMessage(), "does not follow") {
		t.Errorf("it says %v", p)
	}
	if told := r.told()[before:]; !slices.Equal(told, []string{"c1 OFFLINE"}) {
		t.Errorf("RoR was told %q", told)
	}
	b.follow("c1", "x")
	b.state(syncstatus.State_STATE_SYNCED, "x")
}

func TestReplicas_AFreshProjectIsSaidToWait(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	a.arrive()
	b.arrive()
	r.pass(30 * time.Second)
	a.state(syncstatus.State_STATE_PENDING)
	b.state(syncstatus.State_STATE_PENDING)
	if told := r.told(); len(told) == 0 || len(told) > 2 {
		t.Errorf("RoR was told %q", told)
	}
}

func TestReplicas_EachGoesOnWhereNothingIsShared(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	r.set(func() { r.away = true })
	a.arrive()
	a.follow("c1", "x")
	a.state(syncstatus.State_STATE_SYNCED, "x")
	r.pass(time.Second)
	if told := r.told(); len(told) != 1 || told[0] != "c1 SYNCED" {
		t.Errorf("RoR was told %q", told)
	}
	if p, ok := b.store.Get(t.Context(), 7, staging); ok {
		t.Errorf("it says %v", p)
	}
	r.set(func() { r.away = false })
	b.state(syncstatus.State_STATE_SYNCED, "x")
	// Whatever was kept may be lost with what it was kept in.
	r.set(func() { clear(r.keys) })
	a.store.Heard(nil)
	b.state(syncstatus.State_STATE_SYNCED, "x")
}

func TestHeard_TakesAnything(t *testing.T) {
	r := newRoom(t)
	a := r.join("a")
	a.arrive()
	a.follow("c1", "x")
	for _, message := range []string{"", " ", "7", "7 ", "7 x", "x y z", "7 x " + staging, "7 0 " + staging, "9 0 x", "7 -1 " + staging, "7 99999999999999999999 x"} {
		a.store.Heard([]byte(message))
	}
	a.state(syncstatus.State_STATE_SYNCED, "x")
}

package status

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
)

// orphan tells those that are left that the agent's replica is gone, in turn.
func (r *room) orphan(members ...*member) {
	for turn, m := range members {
		m.store.Orphaned([]int64{7}, turn)
	}
}

func (r *room) offlines() (n int) {
	r.rails.mu.Lock()
	defer r.rails.mu.Unlock()
	for _, post := range r.rails.posts {
		if post == "7 "+staging+" c1 OFFLINE" {
			n++
		}
	}
	return n
}

func TestOrphans_OfAReplicaThatIsGone(t *testing.T) {
	for name, row := range map[string]struct {
		happens  func(r *room, a, b, c *member)
		offlines int
	}{
		"the agent stays away, and one says so": {func(r *room, a, b, c *member) {
			a.kill()
			r.orphan(b, c)
		}, 1},
		"the agent comes to another one in time": {func(r *room, a, b, c *member) {
			a.kill()
			r.orphan(b, c)
			r.pass(3 * time.Second)
			c.arrive()
			c.follow("c1", "x")
		}, 0},
		"the one whose turn it is is gone as well": {func(r *room, a, b, c *member) {
			a.kill()
			r.orphan(b, c)
			b.kill()
		}, 1},
		"what they share is away when it is time": {func(r *room, a, b, c *member) {
			a.kill()
			r.orphan(b, c)
			r.set(func() { r.away = true })
			r.pass(20 * time.Second)
			if n := r.offlines(); n != 0 {
				t.Errorf("RoR was told %d times though nobody can know", n)
			}
			r.set(func() { r.away = false })
		}, 1},
		"it is there, and only cannot be heard of": {func(r *room, a, b, c *member) {
			a.has(false) // as the others see it
			r.orphan(b, c)
		}, 0},
		"it has begun anew itself": {func(r *room, a, _, _ *member) {
			a.kill()
			again := r.join(a.url)
			r.orphan(again)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			a, b, c := r.join("a"), r.join("b"), r.join("c")
			a.arrive()
			a.follow("c1", "x")
			b.state(syncstatus.State_STATE_SYNCED, "x")
			r.pass(time.Second)
			row.happens(r, a, b, c)
			r.pass(30 * time.Second)
			if n := r.offlines(); n != row.offlines {
				t.Errorf("RoR was told %d times that the agent is away, want %d: %q", n, row.offlines, r.told())
			}
		})
	}
}

func TestOrphans_AreFollowedAgainWhenTheyComeBack(t *testing.T) {
	r := newRoom(t)
	a, b, c := r.join("a"), r.join("b"), r.join("c")
	a.arrive()
	a.follow("c1", "x")
	b.state(syncstatus.State_STATE_SYNCED, "x")
	a.kill()
	r.orphan(b, c)
	r.pass(20 * time.Second)
	for _, m := range []*member{b, c} {
		if p := m.state(syncstatus.State_STATE_OFFLINE, "x"); p.GetConnected() || p.GetAppliedCommit() != "c1" {
			t.Errorf("%s says %v", m.url, p)
		}
	}
	c.arrive()
	c.follow("c2", "x")
	r.pass(20 * time.Second)
	for _, m := range []*member{b, c} {
		m.state(syncstatus.State_STATE_SYNCED, "x")
	}
	if told := r.told(); !slices.Contains(told, "c1 OFFLINE") || told[len(told)-1] != "c2 SYNCED" {
		t.Errorf("RoR was told %q", told)
	}
}

// Another one may speak of them as well, where both took it for their turn.
func TestOrphans_WhatWasSaidOfThemIsKeptWhenAnotherOneSpeaks(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	a.arrive()
	a.follow("c1", "x")
	b.state(syncstatus.State_STATE_SYNCED, "x")
	r.pass(time.Second)
	a.kill()
	r.orphan(b)
	r.pass(10 * time.Second)
	b.store.Heard(news{key: Key{7, staging}}.encode())
	r.pass(10 * time.Second)
	if p := b.state(syncstatus.State_STATE_OFFLINE, "x"); p.GetAppliedCommit() != "c1" {
		t.Errorf("b says %v", p)
	}
	if told := r.told(); told[len(told)-1] != "c1 OFFLINE" {
		t.Errorf("RoR was told %q", told)
	}
}

// One that hung, or had lost what they share, is taken for gone though its agents are there.
func TestOrphans_WhoHasThemAfterAllHasTheLastWord(t *testing.T) {
	r := newRoom(t)
	a, b := r.join("a"), r.join("b")
	a.arrive()
	a.follow("c1", "x")
	b.state(syncstatus.State_STATE_SYNCED, "x")
	r.pass(time.Second)
	r.set(func() {
		a.agent = false
		delete(r.members, a.url)
	})
	r.orphan(b)
	testkit.Eventually(t, func() error {
		r.clock.Step(100 * time.Millisecond)
		if told := r.told(); told[len(told)-1] != "c1 OFFLINE" {
			return fmt.Errorf("RoR was told %q", told)
		}
		return nil
	})
	r.set(func() {
		a.agent = true
		r.members[a.url] = a
	})
	a.store.Heard(nil) // it may have missed something
	testkit.Eventually(t, func() error {
		r.clock.Step(100 * time.Millisecond)
		if told := r.told(); told[len(told)-1] != "c1 SYNCED" {
			return fmt.Errorf("RoR was told %q", told)
		}
		return nil
	})
	b.state(syncstatus.State_STATE_SYNCED, "x")
}

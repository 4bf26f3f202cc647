package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/clusterstate"
)

func pods() *clusterstate.WatchRequest {
	return &clusterstate.WatchRequest{Query: &clusterstate.Query{Resource: &clusterstate.Resource{Resource: "pods"}}}
}

func podsFrom(cursor string) *clusterstate.WatchRequest {
	r := pods()
	r.Cursor = cursor
	return r
}

func TestWatch_ManyShareOneAndMissNothing(t *testing.T) {
	const changes, watchers = 2000, 30
	agent := newCluster("a", "b", "c", "d", "e")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	first := h.watch(t.Context(), t, pods())
	first.reach(t, 5)
	gates := make([]chan struct{}, watchers) // they come all the time
	for n := range gates {
		gates[n] = make(chan struct{})
	}
	var g errgroup.Group
	waiting := slices.Clone(gates)
	g.Go(func() error {
		for i := 5; i < changes; {
			name := fmt.Sprint("o", i%7)
			agent.put(name)
			i++
			if i%11 == 0 && i < changes {
				agent.remove(name)
				i++
			}
			if n := i * 2 / (changes / watchers); n < watchers && gates[n] != nil {
				for ; n >= 0 && gates[n] != nil; n-- {
					close(gates[n])
					gates[n] = nil
				}
			}
		}
		return nil
	})
	followers := make([]*follower, watchers)
	for n, gate := range waiting {
		g.Go(func() error {
			<-gate
			followers[n] = h.watch(t.Context(), t, pods())
			return followers[n].until(func() bool { return followers[n].synced && followers[n].at >= changes })
		})
	}
	first.reach(t, changes)
	first.same(t, agent)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for n, f := range followers {
		f.same(t, agent)
		if f.resets != 1 {
			t.Errorf("watcher %d was reset %d times", n, f.resets)
		}
	}
	if open, opened, _ := agent.counts(); open != 1 || opened != 1 {
		t.Errorf("%d watches open at the agent, %d were opened", open, opened)
	}
	if n := testutil.ToFloat64(h.server.metrics.watchers); n != watchers+1 {
		t.Errorf("%v watchers counted", n)
	}
}

func TestWatch_EqualQueriesShare(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	h.watch(t.Context(), t, pods()).reach(t, 1)
	whole := pods()
	whole.Query.Shape = clusterstate.Shape_SHAPE_OBJECT
	h.watch(t.Context(), t, whole).reach(t, 1)
	other := pods()
	other.Query.LabelSelector = "a=b"
	h.watch(t.Context(), t, other).reach(t, 1)
	if _, opened, _ := agent.counts(); opened != 2 {
		t.Errorf("%d watches were opened for two queries", opened)
	}
}

func TestWatch_LingersAndEnds(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	for range 2 {
		ctx, leave := context.WithCancel(t.Context())
		h.watch(ctx, t, pods()).reach(t, 1)
		leave()
		eventually(t, "the watcher is still there", func() bool { return testutil.ToFloat64(h.server.metrics.watchers) == 0 })
	}
	if open, opened, _ := agent.counts(); open != 1 || opened != 1 {
		t.Errorf("%d watches open at the agent, %d were opened", open, opened)
	}
	eventually(t, "the shared watch is still open", func() bool {
		h.clock.Step(h.server.config.Linger)
		open, _, _ := agent.counts()
		return open == 0 && testutil.ToFloat64(h.server.metrics.shared) == 0
	})
	h.watch(t.Context(), t, pods()).reach(t, 1)
	if _, opened, _ := agent.counts(); opened != 2 {
		t.Errorf("%d watches were opened", opened)
	}
}

func TestWatch_GoesOnFromACursorInTheLog(t *testing.T) {
	agent := newCluster("a")
	agent.batch = 1
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	stays := h.watch(t.Context(), t, pods())
	stays.reach(t, 1)
	ctx, leave := context.WithCancel(t.Context())
	leaves := h.watch(ctx, t, pods())
	leaves.reach(t, 1)
	agent.put("b")
	leaves.reach(t, 2)
	leave()
	agent.put("a")
	agent.remove("b")
	stays.reach(t, 4)
	for range 2 { // with and without something missed
		back := h.watch(t.Context(), t, podsFrom(leaves.cursor)).again(leaves)
		back.reach(t, 4)
		back.same(t, agent)
		if back.resets != 0 {
			t.Error("it began anew")
		}
		leaves = back
	}
	if _, opened, _ := agent.counts(); opened != 1 {
		t.Errorf("%d watches were opened", opened)
	}
}

func TestWatch_GoesOnWithAnotherKas(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	var followers []*follower
	ctx, leave := context.WithCancel(t.Context())
	before := start(t, tunnel)
	for range 2 * mostResuming {
		f := before.watch(ctx, t, pods())
		f.reach(t, 1)
		followers = append(followers, f)
	}
	leave()
	before.stop()
	agent.put("b")
	after := start(t, tunnel)
	for i, f := range followers {
		followers[i] = after.watch(t.Context(), t, podsFrom(f.cursor)).again(f)
	}
	for _, f := range followers {
		f.reach(t, 2)
	}
	eventually(t, "there are still private watches", func() bool {
		agent.put("a") // where they meet at the latest
		return testutil.ToFloat64(after.server.metrics.private) == 0
	})
	agent.put("last")
	agent.mu.Lock()
	number := len(agent.log)
	agent.mu.Unlock()
	for _, f := range followers {
		f.reach(t, number)
		f.same(t, agent)
		if f.resets != 0 {
			t.Error("it began anew")
		}
	}
	eventually(t, "the agent has more than one watch", func() bool { open, _, _ := agent.counts(); return open == 1 })
}

func TestWatch_BeginsAnewWithACursorThatNobodyKnows(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	for _, cursor := range []string{"b/17", noCursor} {
		f := h.watch(t.Context(), t, podsFrom(cursor))
		f.reach(t, 1)
		f.same(t, agent)
		if f.resets != 1 {
			t.Errorf("%d resets", f.resets)
		}
	}
	eventually(t, "the agent has more than one watch", func() bool { open, _, _ := agent.counts(); return open == 1 })
}

func TestWatch_SurvivesACutWithoutNotice(t *testing.T) {
	agent := newCluster("a", "b")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	f := h.watch(t.Context(), t, pods())
	f.reach(t, 2)
	for i := 3; i < 10; i++ {
		agent.sever()
		agent.put("a")
		f.reach(t, i)
	}
	f.same(t, agent)
	if _, _, resumed := agent.counts(); resumed == 0 || f.resets != 1 {
		t.Errorf("resumed %d times at the agent, %d resets", resumed, f.resets)
	}
}

func TestWatch_BeginsAnewWhenTheAgentDoes(t *testing.T) {
	agent := newCluster("a", "b")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	f := h.watch(t.Context(), t, pods())
	f.reach(t, 2)
	agent.remove("a")
	agent.put("c")
	f.reach(t, 4)
	agent.restart("b")
	if err := f.until(func() bool { return f.resets == 2 && f.synced }); err != nil {
		t.Fatal(err)
	}
	f.same(t, agent)
	agent.put("d")
	f.reach(t, 3)
	f.same(t, agent)
}

func TestWatch_TellsOfAnAgentThatStaysAway(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	f := h.watch(t.Context(), t, pods())
	f.reach(t, 1)
	tunnel.mu.Lock()
	delete(tunnel.conns, 7)
	tunnel.mu.Unlock()
	agent.sever()
	eventually(t, "no try to open it again", func() bool { return testutil.ToFloat64(h.server.metrics.reopened) > 1 })
	h.clock.Step(h.server.config.Patience + time.Second)
	if _, err := f.next(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "agent 7 is not connected" {
		t.Errorf("got %v", err)
	}
	f = h.watch(t.Context(), t, pods())
	if _, err := f.next(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestWatch_EndsWithWhatTheAgentSays(t *testing.T) {
	agent := newCluster("a")
	agent.refuse = status.Error(codes.PermissionDenied, "may not list pods")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	for _, request := range []*clusterstate.WatchRequest{pods(), podsFrom("a/1")} {
		_, err := h.watch(t.Context(), t, request).next()
		if status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != "may not list pods" {
			t.Errorf("got %v", err)
		}
	}
}

func TestWatch_IsNotSharedWhereItTakesTooMuch(t *testing.T) {
	agent := newCluster()
	agent.pad = string(make([]byte, 1000))
	agent.put("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel, func(c *Config) { c.WatchBytes = 20_000 }) // the log counts as well, so nobody falls behind it
	followers := []*follower{h.watch(t.Context(), t, pods()), h.watch(t.Context(), t, pods())}
	for _, f := range followers {
		f.reach(t, 1)
	}
	const changes = 60
	for i := 2; i <= changes; i++ {
		agent.put(fmt.Sprint("o", i))
	}
	followers = append(followers, h.watch(t.Context(), t, pods()))
	for i, f := range followers {
		f.reach(t, changes)
		f.same(t, agent)
		if f.resets != 1 {
			t.Errorf("watcher %d was reset %d times", i, f.resets)
		}
	}
	if n := testutil.ToFloat64(h.server.metrics.private); n != 3 {
		t.Errorf("%v private watches", n)
	}
	eventually(t, "something is still kept", func() bool { return testutil.ToFloat64(h.server.metrics.kept) == 0 })
	agent.sever() // private watches survive that as well
	agent.put("last")
	for _, f := range followers {
		f.reach(t, changes+1)
	}
}

func TestWatch_DoesNotWaitForASlowReader(t *testing.T) {
	agent := newCluster()
	agent.pad = string(make([]byte, 20_000))
	agent.put("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel, func(c *Config) { c.LogMessages = 4 })
	slow := h.watch(t.Context(), t, pods())
	slow.reach(t, 1)
	quick := h.watch(t.Context(), t, pods())
	quick.reach(t, 1)
	const changes = 300
	for i := 2; i <= changes; i++ {
		agent.put("a")
		quick.reach(t, i)
	}
	if quick.resets != 1 {
		t.Errorf("the quick one was reset %d times", quick.resets)
	}
	slow.reach(t, changes) // checks each change on the way
	slow.same(t, agent)
	if slow.resets < 2 || testutil.ToFloat64(h.server.metrics.behind) == 0 {
		t.Errorf("the slow one was reset %d times", slow.resets)
	}
}

// busy is a stream that takes so long to send that much happens meanwhile.
type busy struct {
	grpc.ServerStream
	meanwhile func()
	sent      int
}

func (b *busy) SendMsg(any) error {
	b.sent++
	b.meanwhile()
	return nil
}

func TestWatch_EndsWhoIsAlwaysTooSlow(t *testing.T) {
	h := start(t, newTunnel())
	sh := newShared(h.clock, limits{watchBytes: 1 << 20, logBytes: 1 << 20, logMessages: 1}, h.server.table.budget)
	defer sh.end(errDraining)
	number := 0
	change := func() {
		number++
		raw, err := proto.Marshal(&clusterstate.WatchResponse{Reset_: number == 1, Synced: number == 1, Cursor: fmt.Sprint("a/", number)})
		if err != nil {
			t.Fatal(err)
		}
		m, err := parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := sh.apply(&m); err != nil {
			t.Fatal(err)
		}
	}
	change()
	stream := &busy{meanwhile: func() { change(); change() }}
	w := &watcher{server: h.server, group: &group{}, stream: stream}
	if err := w.follow(t.Context(), sh, place{}); !errors.Is(err, errTooSlow) {
		t.Errorf("got %v", err)
	}
	if stream.sent != 1+mostLags {
		t.Errorf("%d were sent", stream.sent)
	}
}

func TestWatch_TellsAgesAsOfNow(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	table := pods()
	table.Query.Shape = clusterstate.Shape_SHAPE_TABLE
	first := h.watch(t.Context(), t, table)
	first.reach(t, 1)
	if got := first.items["a"].GetCells()[1]; got != "60m" {
		t.Errorf("the first one sees age %s", got)
	}
	h.clock.Step(3 * time.Hour)
	second := h.watch(t.Context(), t, table)
	second.reach(t, 1)
	if got := second.items["a"].GetCells(); got[0] != "a" || got[1] != "4h" {
		t.Errorf("the second one sees %q", got)
	}
}

func TestWatch_TellsNewcomersHowFreshItIs(t *testing.T) {
	agent := newCluster("a")
	tunnel := newTunnel()
	tunnel.connect(t, 7, agent)
	h := start(t, tunnel)
	h.watch(t.Context(), t, pods()).reach(t, 1)
	agent.put("b")
	for _, want := range []string{"1", "2", "2"} {
		f := h.watch(t.Context(), t, pods())
		m, err := f.next()
		if err != nil || m.GetSource().GetResourceVersion() != want {
			t.Errorf("got %v, %v, want version %s", m.GetSource(), err, want)
		}
		if want == "1" {
			h.clock.Step(sourceAge)
		}
	}
	if agent.lists != 1 {
		t.Errorf("the agent was asked %d times", agent.lists)
	}
}

func TestWatch_IsRefusedWhereThereAreTooMany(t *testing.T) {
	tunnel := newTunnel()
	tunnel.connect(t, 7, newCluster("a"))
	h := start(t, tunnel, func(c *Config) { c.Watchers = 1 })
	h.watch(t.Context(), t, pods()).reach(t, 1)
	if _, err := h.watch(t.Context(), t, pods()).next(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}

func TestWatch_EndsWithRun(t *testing.T) {
	tunnel := newTunnel()
	tunnel.connect(t, 7, newCluster("a"))
	h := start(t, tunnel)
	f := h.watch(t.Context(), t, pods())
	f.reach(t, 1)
	h.stop()
	if _, err := f.next(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if _, err := h.watch(t.Context(), t, pods()).next(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

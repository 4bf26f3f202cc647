package state

import (
	"testing"

	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// route puts a way to an agent in the place of the one before, and returns what kills it, as
// a kas that the agent was connected to is killed.
func (f *fakeTunnel) route(tb testing.TB, agentID int64, service agentrpc.ClusterQueryServer) (kill func()) {
	tb.Helper()
	server := grpc.NewServer()
	agentrpc.RegisterClusterQueryServer(server, service)
	conn := serveOn(tb, server, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(grpctool.RawCodec())))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[agentID] = conn
	return server.Stop
}

func TestWatch_GoesOnByAnotherRouteToTheAgent(t *testing.T) {
	c := newCluster("a", "b")
	tunnel := newTunnel()
	kill := tunnel.route(t, 7, c)
	h := start(t, tunnel)
	shared := h.watch(t.Context(), t, pods())
	shared.reach(t, 2)
	// One that has a watch of its own, because it is not where the shared one begins.
	resumed := h.watch(t.Context(), t, &clusterstate.WatchRequest{Query: pods().GetQuery(), Cursor: c.cursor(1)}).again(&follower{
		items: map[string]*clusterstate.Item{"a": c.objects["a"]}, cursor: c.cursor(1), at: 1,
	})
	resumed.reach(t, 2) // a watch that breaks before it was heard of is refused
	for number := 2; number < 20; {
		next := tunnel.route(t, 7, c)
		kill()
		kill = next
		for range 3 {
			c.put("a")
			number++
		}
		shared.reach(t, number)
		resumed.reach(t, number)
	}
	for _, f := range []*follower{shared, resumed} {
		f.same(t, c)
		if f.resets > 1 {
			t.Errorf("it began anew %d times", f.resets)
		}
	}
	if resumed.resets != 0 {
		t.Error("who had a cursor began anew")
	}
}

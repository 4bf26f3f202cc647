package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

// lister is an agent that lists.
type lister func(*clusterstate.ListRequest, grpc.ServerStreamingServer[clusterstate.ListResponse]) error

func (l lister) agent() agentrpc.ClusterQueryServer { return &answering{list: l} }

// parts answers with this many parts.
func parts(n int) lister {
	return func(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
		for i := range n {
			if err := stream.Send(&clusterstate.ListResponse{Items: []*clusterstate.Item{{Name: fmt.Sprint(i)}}, Continue: fmt.Sprint(req.GetLimit())}); err != nil {
				return err
			}
		}
		return nil
	}
}

// answers of a fleet by agent.
type answers struct {
	parts map[int64]int
	ends  map[int64]*railsrpc.FleetEnd
}

func (h *harness) listFleet(ctx context.Context, request *railsrpc.ListFleetRequest) (answers, error) {
	got := answers{map[int64]int{}, map[int64]*railsrpc.FleetEnd{}}
	stream, err := h.client.ListFleet(ctx, request)
	if err != nil {
		return got, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		id := m.GetAgentId()
		if got.ends[id] != nil {
			return got, fmt.Errorf("agent %d after its end", id)
		}
		if m.GetEnd() != nil {
			got.ends[id] = m.GetEnd()
			continue
		}
		if name := m.GetResponse().GetItems()[0].GetName(); name != fmt.Sprint(got.parts[id]) || m.GetResponse().GetContinue() != "5" {
			return got, fmt.Errorf("agent %d: %v", id, m)
		}
		got.parts[id]++
	}
}

func limited() *clusterstate.ListRequest { return &clusterstate.ListRequest{Limit: 5} }

func TestListFleet_TellsHowEachAgentEnded(t *testing.T) {
	tunnel := newTunnel()
	for id := int64(1); id <= 5; id++ {
		tunnel.connect(t, id, parts(int(id)).agent())
	}
	tunnel.connect(t, 6, lister(func(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
		_ = parts(2)(req, stream)
		return status.Error(codes.PermissionDenied, "may not list pods")
	}).agent())
	h := start(t, tunnel, func(c *Config) { c.FleetParallel = 3 })
	got, err := h.listFleet(t.Context(), &railsrpc.ListFleetRequest{AgentIds: []int64{6, 7, 5, 4, 3, 2, 1, 1}, Request: limited()})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int64]struct {
		parts int
		code  codes.Code
		text  string
	}{
		1: {parts: 1}, 2: {parts: 2}, 3: {parts: 3}, 4: {parts: 4}, 5: {parts: 5},
		6: {2, codes.PermissionDenied, "may not list pods"},
		7: {0, codes.Unavailable, "agent 7 is not connected"},
	} {
		end := got.ends[id]
		if end == nil || got.parts[id] != want.parts || codes.Code(end.GetCode()) != want.code || !strings.Contains(end.GetMessage(), want.text) {
			t.Errorf("agent %d: %d parts, %v", id, got.parts[id], end)
		}
	}
	if len(got.ends) != 7 {
		t.Errorf("%d ends", len(got.ends))
	}
}

// TestListFleet_TellsOfLateAgents: also of one that was not asked because others took so long.
func TestListFleet_TellsOfLateAgents(t *testing.T) {
	stuck := lister(func(_ *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
		<-stream.Context().Done()
		return stream.Context().Err()
	})
	tunnel := newTunnel()
	tunnel.connect(t, 1, stuck.agent())
	tunnel.connect(t, 2, stuck.agent())
	h := start(t, tunnel, func(c *Config) { c.FleetParallel = 1 })
	timeout := 250 * time.Millisecond
	testkit.Eventually(t, func() error {
		timeout *= 2 // a tenth of it is for the report, which a busy machine may not make in time
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		got, err := h.listFleet(ctx, &railsrpc.ListFleetRequest{AgentIds: []int64{1, 2}, Request: limited()})
		if err != nil {
			return err
		}
		for id := int64(1); id <= 2; id++ {
			end := got.ends[id]
			if codes.Code(end.GetCode()) != codes.DeadlineExceeded || !strings.Contains(end.GetMessage(), fmt.Sprintf("agent %d did not answer in time", id)) {
				t.Errorf("agent %d: %v", id, end)
			}
		}
		return nil
	})
}

func TestListFleet_DoesNotWaitForTheSilent(t *testing.T) {
	tunnel := newTunnel()
	for id := int64(1); id <= 3; id++ {
		tunnel.connect(t, id, lister(func(_ *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
			<-stream.Context().Done()
			return stream.Context().Err()
		}).agent())
	}
	tunnel.connect(t, 4, parts(2).agent())
	h := start(t, tunnel, func(c *Config) { c.FleetParallel = 1; c.FleetWait = 20 * time.Millisecond; c.Timeout = time.Hour })
	got, err := h.listFleet(t.Context(), &railsrpc.ListFleetRequest{AgentIds: []int64{1, 2, 3, 4}, Request: limited()})
	if err != nil || len(got.ends) != 4 {
		t.Fatalf("%v, %v", got.ends, err)
	}
	for id := int64(1); id <= 3; id++ {
		if want := fmt.Sprintf("agent %d did not answer in time: it did not begin to within 20ms", id); got.ends[id].GetMessage() != want {
			t.Errorf("got %v", got.ends[id])
		}
	}
}

func TestListFleet_AsksTheConnectedOnesOfAProject(t *testing.T) {
	tunnel := newTunnel()
	tunnel.connect(t, 1, parts(1).agent())
	tunnel.connect(t, 2, parts(1).agent())
	h := start(t, tunnel)
	got, err := h.listFleet(t.Context(), &railsrpc.ListFleetRequest{ProjectId: 3, Request: limited()})
	if err != nil || len(got.ends) != 2 || got.parts[1] != 1 || got.parts[2] != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = h.listFleet(t.Context(), &railsrpc.ListFleetRequest{ProjectId: 4, Request: limited()})
	if err != nil || len(got.ends) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestListFleet_RefusesWhatMakesNoSense(t *testing.T) {
	h := start(t, newTunnel())
	for name, request := range map[string]*railsrpc.ListFleetRequest{
		"nobody is named":       {},
		"an agent has number 0": {AgentIds: []int64{1, 0}},
		"too many are named":    {AgentIds: make([]int64, mostAgents+1)},
	} {
		if _, err := h.listFleet(t.Context(), request); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListFleet_AsksABoundedNumberAtATime(t *testing.T) {
	const agents, most = 20, 4
	var now, peak atomic.Int64
	tunnel := newTunnel()
	ids := make([]int64, agents)
	for i := range ids {
		ids[i] = int64(i + 1)
		tunnel.connect(t, ids[i], lister(func(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
			n := now.Add(1)
			defer now.Add(-1)
			for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
			}
			return parts(3)(req, stream)
		}).agent())
	}
	h := start(t, tunnel, func(c *Config) { c.FleetParallel = most })
	got, err := h.listFleet(t.Context(), &railsrpc.ListFleetRequest{AgentIds: ids, Request: limited()})
	if err != nil || len(got.ends) != agents || peak.Load() > most {
		t.Errorf("%d ends, %d at a time, %v", len(got.ends), peak.Load(), err)
	}
}

// TestListFleet_HoldsUpAgentsWhereRoRDoesNotRead: what agents have to say is not kept.
func TestListFleet_HoldsUpAgentsWhereRoRDoesNotRead(t *testing.T) {
	const most = 1000
	var sent atomic.Int64
	tunnel := newTunnel()
	tunnel.connect(t, 1, lister(func(_ *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
		for range most {
			if err := stream.Send(&clusterstate.ListResponse{Continue: string(make([]byte, 100<<10))}); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	}).agent())
	h := start(t, tunnel)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := h.client.ListFleet(ctx, &railsrpc.ListFleetRequest{AgentIds: []int64{1}, Request: limited()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond) // all of it would have come by now
	if n := sent.Load(); n > most/2 {
		t.Errorf("the agent sent %d of %d parts", n, most)
	}
}

package state

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

func newRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

// direct is a tunnel of no length.
type direct struct{ answer []byte }

func (d direct) Conn(int64) grpc.ClientConnInterface { return d }

func (d direct) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	return grpctool.Unmarshal(d.answer, reply)
}

func (direct) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errEnough
}

// BenchmarkGet is what kas adds to a call: over a tunnel of no length, beside a bare call
// of the same size.
func BenchmarkGet(b *testing.B) {
	answer := &clusterstate.GetResponse{Item: &clusterstate.Item{Name: "p", Json: make([]byte, 2<<10)}}
	encoded, err := grpctool.Marshal(answer)
	if err != nil {
		b.Fatal(err)
	}
	request := &clusterstate.GetRequest{Resource: &clusterstate.Resource{Resource: "pods"}, Namespace: "n", Name: "p"}
	b.Run("bare", func(b *testing.B) {
		server := grpc.NewServer()
		agentrpc.RegisterClusterQueryServer(server, &answering{get: func(context.Context, *clusterstate.GetRequest) (*clusterstate.GetResponse, error) {
			return answer, nil
		}})
		client := agentrpc.NewClusterQueryClient(serveOn(b, server))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Get(b.Context(), request); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kas", func(b *testing.B) {
		s := NewServer(Config{}, Collaborators{Tunnel: direct{encoded}, Registerer: newRegistry()})
		server := grpc.NewServer(grpc.ForceServerCodecV2(grpctool.RawCodec()))
		s.Register(server)
		client := railsrpc.NewClusterStateClient(serveOn(b, server))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Get(b.Context(), &railsrpc.ClusterGetRequest{AgentId: 7, Request: request}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("handler", func(b *testing.B) {
		s := NewServer(Config{}, Collaborators{Tunnel: direct{encoded}, Registerer: newRegistry()})
		data, err := grpctool.Marshal(&railsrpc.ClusterGetRequest{AgentId: 7, Request: request})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.serveGet(b.Context(), &grpctool.Raw{Data: data}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkShared is a shared watch of 10,000 objects of 2 kB.
func BenchmarkShared(b *testing.B) {
	var messages []message
	for i := range 100 {
		m := &clusterstate.WatchResponse{Reset_: i == 0, Synced: i == 99, Cursor: fmt.Sprint(i)}
		for j := range 100 {
			m.Events = append(m.Events, &clusterstate.Event{Type: clusterstate.EventType_EVENT_TYPE_ADDED, Item: &clusterstate.Item{
				Namespace: "ns", Name: fmt.Sprintf("pod-%d-%d", i, j), Created: 1, Json: make([]byte, 2<<10),
			}})
		}
		raw, err := grpctool.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		parsed, err := parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		messages = append(messages, parsed)
	}
	c := DefaultConfig()
	newOne := func() *shared {
		return newShared(c.Clock, limits{c.WatchBytes, c.LogBytes, c.LogMessages}, &budget{most: c.TotalBytes, metrics: newMetrics(newRegistry())})
	}
	fill := func(sh *shared) {
		for i := range messages {
			if err := sh.apply(&messages[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("filled", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			fill(newOne())
		}
	})
	b.Run("newcomer", func(b *testing.B) {
		sh := newOne()
		fill(sh)
		s := NewServer(Config{}, Collaborators{Registerer: newRegistry()})
		b.ReportAllocs()
		for b.Loop() {
			step, _, err := sh.next(place{})
			if err != nil {
				b.Fatal(err)
			}
			w := &watcher{server: s, stream: &busy{meanwhile: func() {}}}
			if err := w.tellAll(step.snapshot); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWatch_Event is how long it takes from the moment when an agent learns of a
// change until all watchers know.
func BenchmarkWatch_Event(b *testing.B) {
	for _, watchers := range []int{1, 200} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			agent := newCluster("a")
			agent.pad = string(make([]byte, 2<<10))
			tunnel := newTunnel()
			tunnel.connect(b, 7, agent)
			h := start(b, tunnel)
			followers := make([]*follower, watchers)
			for i := range followers {
				followers[i] = h.watch(b.Context(), b, &clusterstate.WatchRequest{})
				followers[i].reach(b, 1)
			}
			number := 1
			b.ReportAllocs()
			for b.Loop() {
				agent.put("a")
				number++
				for _, f := range followers {
					f.reach(b, number)
				}
			}
		})
	}
}

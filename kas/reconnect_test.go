package kas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/metadata"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
)

// simulated is an agent as kas sees it: a TLS connection of its own with a Watch, a Sync
// and an idle stream of the tunnel, all of which it opens again whenever they end.
type simulated struct {
	conn *grpc.ClientConn
	id   int
}

func (p *process) simulate(id int) (*simulated, error) {
	conn, err := grpc.NewClient(p.agent, grpc.WithTransportCredentials(p.credentials),
		grpc.WithConnectParams(grpc.ConnectParams{ // as agentk's
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 20 * time.Second,
		}),
		grpc.WithReadBufferSize(1<<10))
	if err != nil {
		return nil, err
	}
	return &simulated{conn: conn, id: id}, nil
}

// run holds its streams open until ctx ends.
func (s *simulated) run(ctx context.Context) {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", fmt.Sprint("Bearer ", s.id))
	var streams sync.WaitGroup
	for _, open := range []func(context.Context) error{s.watch, s.tunnel, s.sync} {
		streams.Go(func() {
			for ctx.Err() == nil {
				if open(ctx) == nil {
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(rand.IntN(400)) * time.Millisecond):
				}
			}
		})
	}
	streams.Wait()
}

func (s *simulated) watch(ctx context.Context) error {
	stream, err := agentrpc.NewAgentConfigurationClient(s.conn).Watch(ctx,
		&agentrpc.WatchRequest{AgentMeta: &agentrpc.AgentMeta{InstanceId: int64(s.id), Version: "v1"}}, grpc.WaitForReady(true))
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

func (s *simulated) tunnel(ctx context.Context) error {
	stream, err := agentrpc.NewReverseTunnelClient(s.conn).Connect(ctx, grpc.WaitForReady(true))
	if err == nil {
		err = stream.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{Services: []string{"agentrpc.ClusterQuery"}}})
	}
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

func (s *simulated) sync(ctx context.Context) error {
	stream, err := agentrpc.NewSyncClient(s.conn).Connect(ctx, grpc.WaitForReady(true))
	if err == nil {
		err = stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{
			Hello: &agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: "a/b"}},
		}})
	}
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

// BenchmarkRun_TenThousandAgents connects 10,000 agents to one kas, kills it, starts another
// at its address, and tells how long it took until all were back, how many a second
// came when most did, and what kas's memory is then.
func BenchmarkRun_TenThousandAgents(b *testing.B) {
	const count = 10_000
	for b.Loop() {
		p := startProcess(b, 100)
		empty := p.memory(b)
		ctx, cancel := context.WithCancel(b.Context())
		var agents sync.WaitGroup
		for i := range count {
			agent, err := p.simulate(i + 1)
			if err != nil {
				b.Fatal(err)
			}
			agents.Go(func() {
				agent.run(ctx)
				_ = agent.conn.Close()
			})
		}
		first, _ := p.until(b, count)
		p.restart(b)
		again, peak := p.until(b, count)
		after := p.settled(b)
		b.ReportMetric(first.Seconds(), "s/connected")
		b.ReportMetric(again.Seconds(), "s/reconnected")
		b.ReportMetric(peak, "peak-agents/s")
		for name, unit := range map[string]string{
			"process_resident_memory_bytes": "rss-B/agent", "go_memstats_alloc_bytes": "heap-B/agent",
			"go_memstats_stack_inuse_bytes": "stack-B/agent", "go_goroutines": "goroutines/agent",
		} {
			b.ReportMetric((after[name]-empty[name])/count, unit)
		}
		cancel()
		agents.Wait()
	}
}

// settled is memory once that falls no more: kas gives back to the system what a storm of
// agents has left behind when that is over.
func (p *process) settled(b *testing.B) map[string]float64 {
	b.Helper()
	const rss = "process_resident_memory_bytes"
	least, since := p.memory(b), time.Now()
	for time.Since(since) < 3*memoryPeriod {
		select {
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		case <-time.After(time.Second):
		}
		now := p.metrics(b)
		if now["kas_status_unposted"] > 0 || now[rss] < 0.99*least[rss] {
			least, since = now, time.Now()
		}
	}
	return p.memory(b)
}

// until waits until so many agents are connected with all their streams. It returns how
// long that took, and how many a second came when most did.
func (p *process) until(b *testing.B, count float64) (took time.Duration, peak float64) {
	b.Helper()
	began, connected := time.Now(), 0.0
	last := began
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		case <-tick.C:
		}
		now := p.metrics(b)
		peak = max(peak, (now["kas_connected_agents"]-connected)/time.Since(last).Seconds())
		connected, last = now["kas_connected_agents"], time.Now()
		if connected == count && now["kas_push_streams"] == count && now[`kas_tunnel_streams{state="idle"}`] == count {
			return time.Since(began), peak
		}
		if time.Since(began) > 5*time.Minute {
			b.Fatalf("%v agents, %v sync streams, %v tunnel streams", connected, now["kas_push_streams"], now[`kas_tunnel_streams{state="idle"}`])
		}
	}
}

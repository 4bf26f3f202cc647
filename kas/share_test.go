package kas

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// shared connects agents to kas, of which the first is not counted, and returns how much
// kas's heap grew for each, and how long a whole set took to the last of them.
func (p *process) shared(ctx context.Context, tb testing.TB, count int) (perAgent, set float64, took time.Duration) {
	tb.Helper()
	empty := p.memory(tb)
	conns := make([]*grpc.ClientConn, count+1)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	connect := func(i int) error {
		conn, sync, err := p.connect(ctx, i+1)
		if conns[i] = conn; err != nil {
			return err
		}
		_, _, err = receive(sync)
		return err
	}
	if err := connect(count); err != nil {
		tb.Fatal(err)
	}
	one := p.memory(tb)
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(20)
	for i := range count {
		g.Go(func() error { return connect(i) })
	}
	if err := g.Wait(); err != nil {
		tb.Fatal(err)
	}
	took = time.Since(began)
	all := p.memory(tb)
	if all["kas_push_streams"] != float64(count+1) || all["kas_push_feeds"] != 1 {
		tb.Fatalf("%v streams, %v feeds", all["kas_push_streams"], all["kas_push_feeds"])
	}
	const heap = "go_memstats_alloc_bytes"
	return (all[heap] - one[heap]) / float64(count), one[heap] - empty[heap], took
}

// TestRun_AgentsOnOneRepositoryShareItsSet: kas holds 10,000 objects once, not for each
// agent.
func TestRun_AgentsOnOneRepositoryShareItsSet(t *testing.T) {
	const objects, agents = 10_000, 10
	perAgent, set, took := startProcess(t, objects).shared(t.Context(), t, agents)
	t.Logf("one set with its files: %.1f MB; each further agent: %.0f kB; %d sets sent in %s", set/1e6, perAgent/1e3, agents, took)
	if perAgent > set/20 {
		t.Errorf("each agent costs %.0f kB beside a set of %.0f kB: is it held more than once?", perAgent/1e3, set/1e3)
	}
}

// BenchmarkRun_HundredAgentsShareASet is the same of 100 agents.
func BenchmarkRun_HundredAgentsShareASet(b *testing.B) {
	const objects, agents = 10_000, 100
	for b.Loop() {
		perAgent, set, took := startProcess(b, objects).shared(b.Context(), b, agents)
		b.ReportMetric(set/1e6, "MB/set")
		b.ReportMetric(perAgent/1e3, "kB/agent")
		b.ReportMetric(took.Seconds(), "s/all")
	}
}

// BenchmarkRun_TenThousandObjects is how long a first set of 10,000 objects takes from the
// start of an agent's stream, with all that kas reads and parses for it.
func BenchmarkRun_TenThousandObjects(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		p := startProcess(b, 10_000)
		b.StartTimer()
		conn, sync, err := p.connect(b.Context(), 1)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := receive(sync); err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}

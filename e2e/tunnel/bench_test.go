package tunnel

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// turns is how many calls of one kind are made before it is the other kind's turn.
const turns = 50

// took is how long calls took.
type took []time.Duration

func (d *took) call(b *testing.B, client testgrpc.TestServiceClient, size int) {
	b.Helper()
	began := time.Now()
	got, err := client.UnaryCall(b.Context(), &testgrpc.SimpleRequest{ResponseSize: int32(size)})
	*d = append(*d, time.Since(began))
	require.NoError(b, err)
	require.Len(b, got.GetPayload().GetBody(), size)
}

func (d took) p50() float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Nanoseconds()) / 1000
}

// BenchmarkTunnel_Unary is a small RPC through both ends beside a bare one, between the
// same two processes.
func BenchmarkTunnel_Unary(b *testing.B) {
	for _, with := range transports {
		b.Run(with.name(), func(b *testing.B) {
			tunnel, bare := twoProcesses(b, with)
			var through, direct took
			for range 500 { // both are warm then
				through.call(b, tunnel, 1000)
				direct.call(b, bare, 1000)
			}
			through, direct = nil, nil
			for n := 0; b.Loop(); n++ {
				if n/turns%2 == 0 {
					through.call(b, tunnel, 1000)
				} else {
					direct.call(b, bare, 1000)
				}
			}
			if len(direct) > 0 {
				b.ReportMetric(through.p50(), "tunnel-p50-µs")
				b.ReportMetric(direct.p50(), "bare-p50-µs")
				b.ReportMetric(through.p50()/direct.p50(), "tunnel/bare")
			}
		})
	}
}

// BenchmarkTunnel_BulkBesideSmall is small RPCs through the tunnel: alone, while a bulk
// transfer goes on through it, and while one goes on between the same processes but beside
// it, which tells how much of the delay is the processors'. They take turns. By way of another
// kas one process does the work of two, and two processors are full: give it four.
func BenchmarkTunnel_BulkBesideSmall(b *testing.B) {
	const rounds, each = 8, 250 * time.Millisecond
	for _, with := range transports {
		b.Run(with.name(), func(b *testing.B) {
			tunnel, bare := twoProcesses(b, with)
			for b.Loop() { // it is measured once
			}
			small := func(d *took) {
				for began := time.Now(); time.Since(began) < each; {
					d.call(b, tunnel, 1000)
				}
			}
			var alone, inside, outside took
			small(&alone)
			alone = nil
			var through, direct int64
			for range rounds {
				small(&alone)
				through += beside(b, tunnel, func() { small(&inside) })
				direct += beside(b, bare, func() { small(&outside) })
			}
			seconds := (rounds * each).Seconds()
			b.ReportMetric(alone.p50(), "alone-p50-µs")
			b.ReportMetric(inside.p50()/alone.p50(), "beside/alone")
			b.ReportMetric(outside.p50()/alone.p50(), "beside-bare/alone")
			b.ReportMetric(float64(through)/seconds/1e6, "tunnel-MB/s")
			b.ReportMetric(float64(direct)/seconds/1e6, "bare-MB/s")
		})
	}
}

// beside does something while a bulk transfer goes on, and returns how many bytes that moved.
func beside(b *testing.B, client testgrpc.TestServiceClient, do func()) int64 {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	moved := make(chan int64, 1)
	go func() { moved <- bulk(ctx, client) }()
	do()
	cancel()
	return <-moved
}

// bulk downloads until ctx ends, and returns how many bytes.
func bulk(ctx context.Context, client testgrpc.TestServiceClient) (n int64) {
	many := make([]int, 100)
	for i := range many {
		many[i] = 1 << 20
	}
	for ctx.Err() == nil {
		stream, err := client.StreamingOutputCall(ctx, sizes(many...))
		for err == nil {
			var m *testgrpc.StreamingOutputCallResponse
			m, err = stream.Recv()
			n += int64(len(m.GetPayload().GetBody()))
		}
		if status.Code(err) != codes.Unknown && ctx.Err() == nil {
			return -1
		}
	}
	return n
}

// BenchmarkTunnel_Throughput is one download of 64 MiB through the tunnel, and bare.
func BenchmarkTunnel_Throughput(b *testing.B) {
	for _, with := range transports {
		b.Run(with.name(), func(b *testing.B) {
			tunnel, bare := twoProcesses(b, with)
			spent := map[string]time.Duration{}
			rounds := 0
			for b.Loop() {
				rounds++
				for name, client := range map[string]testgrpc.TestServiceClient{"tunnel": tunnel, "bare": bare} {
					began := time.Now()
					stream, err := client.StreamingOutputCall(b.Context(), sizes(slices.Repeat([]int{1 << 20}, 64)...))
					require.NoError(b, err)
					for range 64 {
						_, err := stream.Recv()
						require.NoError(b, err)
					}
					spent[name] += time.Since(began)
				}
			}
			for name, d := range spent {
				b.ReportMetric(float64(rounds)*64*1.048576/d.Seconds(), name+"-MB/s")
			}
		})
	}
}

package scenarios

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

// BenchmarkClusterState_GetBesideBulk asks for one ConfigMap: alone, while 10,000 pods are
// listed as whole objects by the same agent, over and over, and while as large answers come
// from a process that has nothing to do with kas or agentk. The last tells how much of the
// delay is the processors', which all share. They take turns, 200 questions each.
//
//	E2E_RACE=0 E2E_LOG_LEVEL=info go test -run '^$' -bench ClusterState_GetBesideBulk -benchtime 10x ./e2e/scenarios
func BenchmarkClusterState_GetBesideBulk(b *testing.B) {
	const pods, calls = 10_000, 200
	f := env.New(b)
	makePods(b, f, pods)
	makeConfigMap(f, f.Name, "a", "value", nil)
	state := f.ClusterState()
	request := &railsrpc.ClusterGetRequest{
		AgentId: f.Agent.ID, Request: &clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: "a"},
	}
	answer, err := state.Get(request.GetRequest())
	if err != nil {
		b.Fatal(err)
	}
	_, address := newBare(b, answer, "")
	bare, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = bare.Close() })
	inside := &transfer{conn: f.DialAPI(f.Stack.KasAPIAddress), request: &railsrpc.ClusterListRequest{
		AgentId: f.Agent.ID, Request: &clusterstate.ListRequest{Query: inNamespace(f, core("pods"), clusterstate.Shape_SHAPE_OBJECT)},
	}}
	outside := &transfer{conn: bare, request: &railsrpc.ClusterListRequest{Request: &clusterstate.ListRequest{Limit: 10}}}
	var alone, besideInside, besideOutside []time.Duration
	gets := func(into *[]time.Duration) {
		*into = append(*into, timed(b, calls, func() error {
			_, err := state.Client.Get(b.Context(), request)
			return err
		})...)
	}
	round := func() {
		gets(&alone)
		inside.beside(b, func() { gets(&besideInside) })
		outside.beside(b, func() { gets(&besideOutside) })
	}
	round()
	alone, besideInside, besideOutside = nil, nil, nil // everybody is warm now
	inside.reset()
	outside.reset()
	for b.Loop() {
		round()
	}
	report(b, "alone", alone)
	report(b, "beside", besideInside)
	report(b, "beside-other", besideOutside)
	b.ReportMetric(inside.rate(), "MB/s")
	b.ReportMetric(outside.rate(), "other-MB/s")
	b.ReportMetric(float64(p50(besideInside))/float64(p50(alone)), "x-alone")
	b.ReportMetric(float64(p50(besideInside))/float64(p50(besideOutside)), "x-beside-other")
}

// transfer is a large answer that is asked for over and over.
type transfer struct {
	conn    *grpc.ClientConn
	request *railsrpc.ClusterListRequest
	bytes   int
	took    time.Duration
}

func (l *transfer) reset() { l.bytes, l.took = 0, 0 }

// rate is in MB a second.
func (l *transfer) rate() float64 { return float64(l.bytes) / 1e6 / l.took.Seconds() }

// beside does something while answers come.
func (l *transfer) beside(b *testing.B, do func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	began := time.Now()
	comes, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			err = listRaw(ctx, l.conn, l.request, func(bytes int) {
				l.bytes += bytes
				select {
				case comes <- struct{}{}:
				default:
				}
			})
		}
		ended <- err
	}()
	select {
	case <-comes:
		do()
	case err := <-ended:
		b.Fatal(err)
	}
	select {
	case err := <-ended:
		b.Fatal(errors.Join(errors.New("the transfer ended before the questions did"), err))
	default:
	}
	cancel()
	<-ended
	l.took += time.Since(began)
}

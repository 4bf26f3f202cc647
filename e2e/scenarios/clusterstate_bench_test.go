package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/e2e/harness"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// p50 of what was measured, in any order.
func p50(took []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[len(sorted)/2]
}

// timed is how long each of some calls takes, one after the other.
func timed(b *testing.B, calls int, call func() error) []time.Duration {
	b.Helper()
	took := make([]time.Duration, calls)
	for i := range took {
		begun := time.Now()
		if err := call(); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(begun)
	}
	return took
}

// BenchmarkClusterState_Get asks for one ConfigMap through kas, the tunnel and the
// agent's cache; beside that a bare unary call to another process with the same answer,
// one that a third process hands on ("twice": what the tunnel cannot be faster than), and a
// GET of the API server. Each round is 200 calls of each kind, one after the other.
//
//	E2E_RACE=0 E2E_LOG_LEVEL=info go test -run '^$' -bench ClusterState_Get -benchtime 10x ./e2e/scenarios
func BenchmarkClusterState_Get(b *testing.B) {
	const calls = 200
	f := env.New(b)
	makeConfigMap(f, f.Name, "a", "value", nil)
	request := &railsrpc.ClusterGetRequest{
		AgentId: f.Agent.ID, Request: &clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: "a"},
	}
	state := f.ClusterState()
	answer, err := state.Get(request.GetRequest())
	if err != nil {
		b.Fatal(err)
	}
	bare, address := newBare(b, answer, "")
	twice, _ := newBare(b, answer, address)
	measured := map[string][]time.Duration{}
	round := func() {
		measured["bare"] = append(measured["bare"], timed(b, calls, func() error {
			_, err := bare.Get(b.Context(), request)
			return err
		})...)
		measured["twice"] = append(measured["twice"], timed(b, calls, func() error {
			_, err := twice.Get(b.Context(), request)
			return err
		})...)
		measured["tunnel"] = append(measured["tunnel"], timed(b, calls, func() error {
			_, err := state.Client.Get(b.Context(), request)
			return err
		})...)
		measured["direct"] = append(measured["direct"], timed(b, calls, func() error {
			_, err := f.Kube.CoreV1().ConfigMaps(f.Name).Get(b.Context(), "a", metav1.GetOptions{})
			return err
		})...)
	}
	round()
	clear(measured) // everybody is warm now
	for b.Loop() {
		round()
	}
	for _, name := range []string{"bare", "twice", "tunnel", "direct"} {
		report(b, name, measured[name])
	}
	b.ReportMetric(float64(p50(measured["tunnel"]))/float64(p50(measured["bare"])), "x-bare")
	b.ReportMetric(float64(p50(measured["tunnel"]))/float64(p50(measured["twice"])), "x-twice")
	b.ReportMetric(float64(p50(measured["direct"]))/float64(p50(measured["tunnel"])), "x-faster-than-direct")
}

// BenchmarkClusterState_WatchEvent measures how much later than a watch of the API
// server RoR's watch tells of a change.
//
//	E2E_RACE=0 E2E_LOG_LEVEL=info go test -run '^$' -bench ClusterState_WatchEvent -benchtime 300x ./e2e/scenarios
func BenchmarkClusterState_WatchEvent(b *testing.B) {
	f := env.New(b)
	change(f, "a", "0")
	direct, err := f.Kube.CoreV1().ConfigMaps(f.Name).Watch(b.Context(), metav1.ListOptions{FieldSelector: "metadata.name=a"})
	if err != nil {
		b.Fatal(err)
	}
	defer direct.Stop()
	stream, err := f.ClusterState().Client.Watch(b.Context(), &railsrpc.ClusterWatchRequest{
		AgentId: f.Agent.ID, Request: &clusterstate.WatchRequest{Query: labelled(f, clusterstate.Shape_SHAPE_OBJECT)},
	})
	if err != nil {
		b.Fatal(err)
	}
	type seen struct {
		version string
		at      time.Time
	}
	byTunnel, byServer := make(chan seen, 1000), make(chan seen, 1000)
	go func() {
		defer close(byTunnel)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			at := time.Now()
			for _, e := range r.GetEvents() {
				byTunnel <- seen{version: e.GetItem().GetResourceVersion(), at: at}
			}
		}
	}()
	go func() {
		defer close(byServer)
		for event := range direct.ResultChan() {
			if cm, ok := event.Object.(*corev1.ConfigMap); ok {
				byServer <- seen{version: cm.ResourceVersion, at: time.Now()}
			}
		}
	}()
	wait := func(from <-chan seen, version string) time.Time {
		for s := range from {
			if s.version == version {
				return s.at
			}
		}
		b.Fatalf("a watch ended before it told of version %s", version)
		return time.Time{}
	}
	var later []time.Duration
	round := 0
	for b.Loop() {
		round++
		version := change(f, "a", fmt.Sprint("round ", round)).ResourceVersion
		server := wait(byServer, version)
		later = append(later, wait(byTunnel, version).Sub(server))
	}
	report(b, "later", later)
}

// BenchmarkClusterState_ListPods lists 10,000 pods as a table through the tunnel, and beside
// that by the API server from its watch cache: until all bytes are there, and until they
// are decoded as well.
//
//	E2E_RACE=0 E2E_LOG_LEVEL=info go test -run '^$' -bench ClusterState_ListPods -benchtime 20x ./e2e/scenarios
func BenchmarkClusterState_ListPods(b *testing.B) {
	const pods = 10_000
	f := env.New(b)
	makePods(b, f, pods)
	client, request := tableRequest(b, f)
	state, conn := f.ClusterState(), f.DialAPI(f.Stack.KasAPIAddress)
	list := &clusterstate.ListRequest{Query: inNamespace(f, core("pods"), clusterstate.Shape_SHAPE_TABLE)}
	expect := func(rows int, err error) error {
		if err == nil && rows != pods {
			err = fmt.Errorf("%d pods", rows)
		}
		return err
	}
	calls := map[string]func() error{
		"tunnel": func() error {
			return listRaw(b.Context(), conn, &railsrpc.ClusterListRequest{AgentId: f.Agent.ID, Request: list}, func(int) {})
		},
		"tunnel-decoded": func() error {
			all, err := state.List(list)
			return expect(len(all.Items), err)
		},
		"server": func() error {
			_, err := fetch(b.Context(), client, request)
			return err
		},
		"server-decoded": func() error {
			body, err := fetch(b.Context(), client, request)
			if err != nil {
				return err
			}
			var table metav1.Table
			err = json.Unmarshal(body, &table)
			return expect(len(table.Rows), err)
		},
	}
	names := slices.Sorted(maps.Keys(calls))
	measured := map[string][]time.Duration{}
	round := func() {
		for _, name := range names {
			measured[name] = append(measured[name], timed(b, 1, calls[name])...)
		}
	}
	round()
	clear(measured) // everybody is warm now
	for b.Loop() {
		round()
	}
	for _, name := range names {
		report(b, name, measured[name])
	}
	b.ReportMetric(float64(p50(measured["server"]))/float64(p50(measured["tunnel"])), "x-faster-than-server")
	b.ReportMetric(float64(p50(measured["server-decoded"]))/float64(p50(measured["tunnel-decoded"])), "x-faster-decoded")
}

// listRaw lists and looks at nothing. It says how many bytes come, as they come.
func listRaw(ctx context.Context, conn *grpc.ClientConn, request *railsrpc.ClusterListRequest, came func(bytes int)) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, railsrpc.ClusterState_List_FullMethodName,
		grpc.ForceCodecV2(grpctool.RawCodec()))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for err == nil {
		part := &grpctool.Raw{}
		err = stream.RecvMsg(part)
		came(len(part.Data))
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// fetch is the whole answer to a request that has no body.
func fetch(ctx context.Context, client *http.Client, request *http.Request) ([]byte, error) {
	resp, err := client.Do(request.Clone(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// makePods makes pods that no scheduler looks at.
func makePods(b *testing.B, f *harness.Fixture, n int) {
	b.Helper()
	f.Eventually(func() error { // pods are not let in before
		_, err := f.Kube.CoreV1().ServiceAccounts(f.Name).Get(b.Context(), "default", metav1.GetOptions{})
		return err
	})
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(32)
	for i := range n {
		group.Go(func() error {
			_, err := f.Kube.CoreV1().Pods(f.Name).Create(ctx, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%05d", i), Labels: map[string]string{"app": "web", "shard": fmt.Sprint(i % 100)}},
				Spec: corev1.PodSpec{
					SchedulerName: "nobody",
					Containers:    []corev1.Container{{Name: "web", Image: "registry.example.com/web:1"}},
				},
			}, metav1.CreateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// tableRequest is the API server's own list of the namespace's pods as a table, from its
// watch cache and not compressed, which is the fastest that it can.
func tableRequest(b *testing.B, f *harness.Fixture) (*http.Client, *http.Request) {
	b.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", f.Cluster.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	config.DisableCompression = true
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		b.Fatal(err)
	}
	url := config.Host + "/api/v1/namespaces/" + f.Name + "/pods?resourceVersion=0"
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	return client, request
}

package engine_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// BenchmarkQuery_Watch compares when a change arrives with when the API server's own watch
// tells of it.
func BenchmarkQuery_Watch(b *testing.B) {
	changes := max(b.N, 200)
	a := newAsker(b, server)
	a.configMap("one", nil)
	direct, err := a.client.CoreV1().ConfigMaps(a.namespace).Watch(b.Context(), metav1.SingleObject(metav1.ObjectMeta{Name: "one"}))
	require.NoError(b, err)
	defer direct.Stop()
	q := a.of("", "configmaps", clusterstate.Shape_SHAPE_OBJECT)
	q.FieldSelector = "metadata.name=one"
	w := a.watch(q, "")
	w.until(added, "one")
	w.left = nil

	var mu sync.Mutex
	seen := [2]map[string]time.Time{{}, {}}
	note := func(who int, version string) int {
		mu.Lock()
		defer mu.Unlock()
		seen[who][version] = time.Now()
		return len(seen[who])
	}
	var g errgroup.Group
	g.Go(func() error {
		for e := range direct.ResultChan() {
			if cm, ok := e.Object.(*corev1.ConfigMap); ok && cm.Data != nil && note(0, cm.ResourceVersion) == changes {
				return nil
			}
		}
		return errors.New("the API server's watch has ended")
	})
	g.Go(func() error {
		for n := 0; n < changes; {
			m, err := w.stream.Recv()
			if err != nil {
				return err
			}
			for _, e := range m.GetEvents() {
				n = note(1, e.GetItem().GetResourceVersion())
			}
		}
		return nil
	})
	for i := range changes {
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(b.Context(), "one", types.MergePatchType,
			fmt.Appendf(nil, `{"data":{"key":"%d"}}`, i), metav1.PatchOptions{})
		require.NoError(b, err)
	}
	require.NoError(b, g.Wait())
	var late []time.Duration
	for version, at := range seen[0] {
		late = append(late, seen[1][version].Sub(at))
	}
	slices.Sort(late)
	b.ReportMetric(late[len(late)/2].Seconds()*1e3, "p50-ms-later")
	b.ReportMetric(late[len(late)*99/100].Seconds()*1e3, "p99-ms-later")
}

// BenchmarkQuery_TableOfMany compares an answer of many rows with the API server's own.
func BenchmarkQuery_TableOfMany(b *testing.B) {
	const n = 2000
	rounds := max(b.N, 9)
	a := newAsker(b, server)
	var g errgroup.Group
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error {
			_, err := a.client.CoreV1().ConfigMaps(a.namespace).Create(b.Context(), &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%05d", i), Labels: map[string]string{"app": "many"}},
				Data:       map[string]string{"key": "value"},
			}, metav1.CreateOptions{})
			return err
		})
	}
	require.NoError(b, g.Wait())
	req := &clusterstate.ListRequest{Query: a.of("", "configmaps", clusterstate.Shape_SHAPE_TABLE)}
	req.Query.FieldSelector = ""
	a.eventually(req, func(r *clusterstate.ListResponse) error {
		if len(r.GetItems()) < n {
			return errors.New("they are not all known yet")
		}
		return nil
	})
	own := median(rounds, func() {
		_, err := a.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/"+a.namespace+"/configmaps").Param("resourceVersion", "0").
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(b.Context()).Raw()
		require.NoError(b, err)
	})
	ours := median(rounds, func() {
		// As kas takes it: encoded.
		stream, err := a.conn.NewStream(b.Context(), &agentrpc.ClusterQuery_ServiceDesc.Streams[0], agentrpc.ClusterQuery_List_FullMethodName,
			grpc.ForceCodecV2(grpctool.RawCodec()))
		require.NoError(b, err)
		require.NoError(b, stream.SendMsg(req))
		require.NoError(b, stream.CloseSend())
		for err == nil {
			err = stream.RecvMsg(&grpctool.Raw{})
		}
		require.ErrorIs(b, err, io.EOF)
	})
	report(b, ours, own)
}

// BenchmarkQuery_Get compares one object with the API server's own answer.
func BenchmarkQuery_Get(b *testing.B) {
	rounds := max(b.N, 501)
	a := newAsker(b, server)
	a.configMap("one", map[string]string{"key": "value"})
	req := &clusterstate.GetRequest{Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: a.namespace, Name: "one"}
	ours := median(rounds, func() {
		_, err := a.query.Get(b.Context(), req)
		require.NoError(b, err)
	})
	own := median(rounds, func() {
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(b.Context(), "one", metav1.GetOptions{})
		require.NoError(b, err)
	})
	report(b, ours, own)
}

// report of medians: what agentk took, and what the API server took for the same.
func report(b *testing.B, ours, own time.Duration) {
	b.Helper()
	b.ReportMetric(ours.Seconds()*1e3, "ms")
	b.ReportMetric(own.Seconds()*1e3, "api-server-ms")
	b.ReportMetric(float64(own)/float64(ours), "times-faster")
}

func TestQuery_ManyWatchesAtOnce(t *testing.T) {
	const n = 1000
	a := newAsker(t, server)
	a.configMap("one", nil)
	q := a.of("", "configmaps", clusterstate.Shape_SHAPE_TABLE)
	watches := make([]*queryWatch, n)
	for i := range watches {
		watches[i] = a.watch(q, "")
	}
	for _, w := range watches {
		w.until(added, "one")
	}
	began := time.Now()
	a.configMap("one", map[string]string{"key": "value"})
	for _, w := range watches {
		w.until(modified, "one")
	}
	t.Logf("%d watches knew of a change after %s", n, time.Since(began))
}

func median(rounds int, ask func()) time.Duration {
	took := make([]time.Duration, rounds)
	for i := range took {
		began := time.Now()
		ask()
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[rounds/2]
}

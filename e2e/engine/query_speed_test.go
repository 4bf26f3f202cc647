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

// TestQuery_WatchIsNotLongAfterTheAPIServersOwn compares when a change arrives.
func TestQuery_WatchIsNotLongAfterTheAPIServersOwn(t *testing.T) {
	const changes = 200
	a := newAsker(t, server)
	a.configMap("one", nil)
	direct, err := a.client.CoreV1().ConfigMaps(a.namespace).Watch(t.Context(), metav1.SingleObject(metav1.ObjectMeta{Name: "one"}))
	require.NoError(t, err)
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
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), "one", types.MergePatchType,
			fmt.Appendf(nil, `{"data":{"key":"%d"}}`, i), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	require.NoError(t, g.Wait())
	var late []time.Duration
	for version, at := range seen[0] {
		late = append(late, seen[1][version].Sub(at))
	}
	slices.Sort(late)
	p50, p99 := late[len(late)/2], late[len(late)*99/100]
	t.Logf("%d changes: p50 %s, p99 %s after the API server's own watch", len(late), p50, p99)
	require.Less(t, p50, 5*time.Millisecond)
}

// TestQuery_TableOfManyIsFasterThanTheAPIServers compares an answer of many rows.
func TestQuery_TableOfManyIsFasterThanTheAPIServers(t *testing.T) {
	const n, rounds = 2000, 9
	a := newAsker(t, server)
	var g errgroup.Group
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error {
			_, err := a.client.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cm-%05d", i), Labels: map[string]string{"app": "many"}},
				Data:       map[string]string{"key": "value"},
			}, metav1.CreateOptions{})
			return err
		})
	}
	require.NoError(t, g.Wait())
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
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
		require.NoError(t, err)
	})
	ours := median(rounds, func() {
		// As kas takes it: encoded.
		stream, err := a.conn.NewStream(t.Context(), &agentrpc.ClusterQuery_ServiceDesc.Streams[0], agentrpc.ClusterQuery_List_FullMethodName,
			grpc.ForceCodecV2(grpctool.RawCodec()))
		require.NoError(t, err)
		require.NoError(t, stream.SendMsg(req))
		require.NoError(t, stream.CloseSend())
		for err == nil {
			err = stream.RecvMsg(&grpctool.Raw{})
		}
		require.ErrorIs(t, err, io.EOF)
	})
	t.Logf("%d rows: the API server %s, agentk %s: %.1f times faster", n, own, ours, float64(own)/float64(ours))
	require.Greater(t, own, 2*ours)
}

// TestQuery_GetIsFasterThanTheAPIServers compares one object.
func TestQuery_GetIsFasterThanTheAPIServers(t *testing.T) {
	const rounds = 501
	a := newAsker(t, server)
	a.configMap("one", map[string]string{"key": "value"})
	req := &clusterstate.GetRequest{Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: a.namespace, Name: "one"}
	ours := median(rounds, func() {
		_, err := a.query.Get(t.Context(), req)
		require.NoError(t, err)
	})
	own := median(rounds, func() {
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "one", metav1.GetOptions{})
		require.NoError(t, err)
	})
	t.Logf("the API server %s, agentk %s: %.1f times faster", own, ours, float64(own)/float64(ours))
	require.Greater(t, own, ours)
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

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/agentk/query"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
)

// asker asks an agentk's queries by gRPC. It has a namespace of its own.
type asker struct {
	t         testing.TB
	namespace string
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	conn      *grpc.ClientConn
	query     agentrpc.ClusterQueryClient
	cache     *cache.Cache
	keeper    *query.Keeper
}

// newAsker starts what answers, which reaches the API server by rc.
func newAsker(tb testing.TB, rc *rest.Config) *asker {
	tb.Helper()
	admin := rest.CopyConfig(server)
	admin.QPS = -1
	a := &asker{t: tb}
	var err error
	a.client, err = kubernetes.NewForConfig(admin)
	require.NoError(tb, err)
	a.dynamic, err = dynamic.NewForConfig(admin)
	require.NoError(tb, err)
	ns, err := a.client.CoreV1().Namespaces().Create(tb.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "query-"}}, metav1.CreateOptions{})
	require.NoError(tb, err)
	a.namespace = ns.Name

	a.cache, err = cache.New(cache.Config{RESTConfig: rc, FieldManager: cluster.FieldManager, Log: testkit.Logger(tb)})
	require.NoError(tb, err)
	served, err := cluster.New(cluster.Config{RESTConfig: rc, Namespace: a.namespace, Cache: a.cache})
	require.NoError(tb, err)
	queries, err := query.NewServer(query.Config{Registerer: prometheus.NewRegistry()}, served, a.cache)
	require.NoError(tb, err)
	a.keeper = query.NewKeeper(query.KeeperConfig{Log: testkit.Logger(tb)}, served, a.cache)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(grpctool.RawCodec()))
	agentrpc.RegisterClusterQueryServer(srv, queries)
	listener := bufconn.Listen(1 << 20)

	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var g errgroup.Group
	g.Go(func() error { return a.cache.Run(ctx) })
	g.Go(func() error { return a.keeper.Run(ctx) })
	g.Go(func() error { return testkit.Serve(srv, listener) })
	conn, err := grpc.NewClient("passthrough:///agentk", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(tb, err)
	a.conn, a.query = conn, agentrpc.NewClusterQueryClient(conn)
	tb.Cleanup(func() {
		require.NoError(tb, conn.Close())
		srv.Stop()
		cancel()
		require.NoError(tb, g.Wait())
	})
	return a
}

func (a *asker) configMap(name string, data map[string]string) {
	a.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Data: data}
	cms := a.client.CoreV1().ConfigMaps(a.namespace)
	_, err := cms.Update(a.t.Context(), cm, metav1.UpdateOptions{})
	if err != nil {
		_, err = cms.Create(a.t.Context(), cm, metav1.CreateOptions{})
	}
	require.NoError(a.t, err)
}

// list returns all of an answer as one.
func (a *asker) list(req *clusterstate.ListRequest) (*clusterstate.ListResponse, error) {
	a.t.Helper()
	stream, err := a.query.List(a.t.Context(), req)
	require.NoError(a.t, err)
	var all *clusterstate.ListResponse
	for {
		part, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case all == nil:
			all = part
		default:
			all.Items = append(all.Items, part.GetItems()...)
			all.Continue, all.Remaining = part.GetContinue(), part.GetRemaining()
		}
	}
}

// eventually lists until check is content: the cache is a little behind whoever writes.
func (a *asker) eventually(req *clusterstate.ListRequest, check func(*clusterstate.ListResponse) error) *clusterstate.ListResponse {
	a.t.Helper()
	var last *clusterstate.ListResponse
	testkit.Eventually(a.t, func() error {
		var err error
		if last, err = a.list(req); err != nil {
			return err
		}
		return check(last)
	})
	return last
}

// has checks the names of an answer.
func has(names ...string) func(*clusterstate.ListResponse) error {
	return func(r *clusterstate.ListResponse) error {
		var got []string
		for _, it := range r.GetItems() {
			got = append(got, it.GetName())
		}
		if !slices.Equal(got, names) {
			return fmt.Errorf("it has %q, not %q", got, names)
		}
		return nil
	}
}

func (a *asker) of(group, resource string, shape clusterstate.Shape) *clusterstate.Query {
	return &clusterstate.Query{
		Resource: &clusterstate.Resource{Group: group, Resource: resource}, Namespace: a.namespace, Shape: shape,
		FieldSelector: "metadata.name!=kube-root-ca.crt",
	}
}

// serversTable is the table that the API server itself makes of a resource.
func (a *asker) serversTable(path string) *metav1.Table {
	a.t.Helper()
	data, err := a.client.CoreV1().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(a.t.Context()).Raw()
	require.NoError(a.t, err)
	table := &metav1.Table{}
	require.NoError(a.t, json.Unmarshal(data, table))
	return table
}

// same holds an answer against the API server's own table, but for ages, which move on.
func (a *asker) same(want *metav1.Table, got *clusterstate.ListResponse) {
	a.t.Helper()
	require.Len(a.t, got.GetColumns(), len(want.ColumnDefinitions))
	for i, c := range want.ColumnDefinitions {
		column := got.GetColumns()[i]
		require.Equal(a.t, []any{c.Name, c.Type, c.Format, c.Description, c.Priority},
			[]any{column.GetName(), column.GetType(), column.GetFormat(), column.GetDescription(), column.GetPriority()})
	}
	require.Len(a.t, got.GetItems(), len(want.Rows))
	for i, row := range want.Rows {
		require.Len(a.t, got.GetItems()[i].GetCells(), len(row.Cells))
		for j, cell := range row.Cells {
			text := got.GetItems()[i].GetCells()[j]
			if want.ColumnDefinitions[j].Name == "Age" {
				require.Regexp(a.t, `^\d+[smh]`, text)
				continue
			}
			require.Equal(a.t, fmt.Sprint(cell), text, "%s of row %d", want.ColumnDefinitions[j].Name, i)
		}
	}
}

// queryWatch is an open watch.
type queryWatch struct {
	t      testing.TB
	stream grpc.ServerStreamingClient[clusterstate.WatchResponse]
	stop   context.CancelFunc
	// left are the events of the newest response, of cursor, that until has not looked at.
	left   []*clusterstate.Event
	cursor string
}

func (a *asker) watch(q *clusterstate.Query, cursor string) *queryWatch {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*testkit.Patience) // there may be a thousand of them
	a.t.Cleanup(cancel)
	stream, err := a.query.Watch(ctx, &clusterstate.WatchRequest{Query: q, Cursor: cursor})
	require.NoError(a.t, err)
	return &queryWatch{t: a.t, stream: stream, stop: cancel}
}

func (w *queryWatch) next() *clusterstate.WatchResponse {
	w.t.Helper()
	m, err := w.stream.Recv()
	require.NoError(w.t, err)
	return m
}

// until returns the next such event.
func (w *queryWatch) until(kind clusterstate.EventType, name string) *clusterstate.Item {
	w.t.Helper()
	for {
		for len(w.left) > 0 {
			e := w.left[0]
			w.left = w.left[1:]
			if e.GetType() == kind && e.GetItem().GetName() == name {
				return e.GetItem()
			}
		}
		m := w.next()
		w.left, w.cursor = m.GetEvents(), m.GetCursor()
	}
}

package query

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/objects"
)

// list returns the parts of an answer.
func list(t *testing.T, s *Server, req *clusterstate.ListRequest) ([]*clusterstate.ListResponse, error) {
	t.Helper()
	str := &stream[clusterstate.ListResponse, *clusterstate.ListResponse]{ctx: t.Context(), sent: make(chan *clusterstate.ListResponse, 1000)}
	err := s.List(req, str)
	close(str.sent)
	var parts []*clusterstate.ListResponse
	for p := range str.sent {
		parts = append(parts, p)
	}
	return parts, err
}

func names(items []*clusterstate.Item) string {
	var all []string
	for _, it := range items {
		all = append(all, it.GetName())
	}
	return strings.Join(all, " ")
}

func TestGet_AnswersInEveryShape(t *testing.T) {
	c := newFakeCache()
	pod := object("ns", "a", "7", nil, phase("Running"))
	c.put(pods, objects.Whole, newFakeView(pod)).fresh.Redacted = true
	meta := object("ns", "a", "7", nil, nil)
	c.put(pods, objects.Metadata, newFakeView(meta))
	c.put(pods, objects.Table, table(row("ns", "a", "7", nil, "Running")))
	s := newServer(t, c, nil)
	get := func(shape clusterstate.Shape) *clusterstate.GetResponse {
		resp, err := s.Get(t.Context(), &clusterstate.GetRequest{Resource: resource("", "v1", "pods"), Namespace: "ns", Name: "a", Shape: shape})
		require.NoError(t, err)
		require.Equal(t, "uid-a", resp.GetItem().GetUid())
		require.Equal(t, "7", resp.GetItem().GetResourceVersion())
		require.Equal(t, now.Add(-5*time.Hour).Unix(), resp.GetItem().GetCreated())
		require.Equal(t, "100", resp.GetSource().GetResourceVersion())
		require.Equal(t, now, resp.GetSource().GetCurrentAt().AsTime())
		require.True(t, resp.GetSource().GetNamespaced())
		return resp
	}
	whole := get(clusterstate.Shape_SHAPE_UNSPECIFIED)
	require.JSONEq(t, string(pod.JSON), string(whole.GetItem().GetJson()))
	require.True(t, whole.GetSource().GetRedacted())
	require.JSONEq(t, string(meta.JSON), string(get(clusterstate.Shape_SHAPE_METADATA).GetItem().GetJson()))
	rowOfPod := get(clusterstate.Shape_SHAPE_TABLE)
	require.Empty(t, rowOfPod.GetItem().GetJson())
	require.Equal(t, []string{"a", "Running", "5h"}, rowOfPod.GetItem().GetCells())
	require.Len(t, rowOfPod.GetColumns(), 3)
	require.Equal(t, "what it is called", rowOfPod.GetColumns()[0].GetDescription())
	require.Equal(t, int32(1), rowOfPod.GetColumns()[1].GetPriority())
	require.Zero(t, c.held())
}

func TestGet_SaysWhyThereIsNoAnswer(t *testing.T) {
	c := newFakeCache()
	c.put(pods, objects.Whole, newFakeView())
	c.put(nodes, objects.Whole, newFakeView()).fresh.Namespaced = false
	gr := secrets.GroupResource()
	s := newServer(t, c, nil)
	for name, row := range map[string]struct {
		resource, namespace, name string
		err                       error
		code                      codes.Code
		text                      string
	}{
		"no such object":              {"pods", "ns", "a", nil, codes.NotFound, `pods "a" not found in namespace "ns"`},
		"no such object, of no space": {"nodes", "", "a", nil, codes.NotFound, `nodes "a" not found`},
		"a missing namespace":         {"pods", "", "a", nil, codes.InvalidArgument, `namespace is empty: pods are in namespaces, name one`},
		"a namespace of what has none": {"nodes", "ns", "a", nil, codes.InvalidArgument,
			`nodes are in no namespace: leave namespace out`},
		"no name": {"pods", "ns", "", nil, codes.InvalidArgument, `name is empty`},
		"nothing that is served": {"nothings", "ns", "a", nil, codes.NotFound,
			`the API server of the cluster serves no nothings: check group, version and plural`},
		"what may not be read": {
			"secrets", "ns", "a", apierrors.NewForbidden(gr, "", errors.New("cannot list")), codes.PermissionDenied,
			`agentk's service account may not list and watch secrets: grant it both verbs on them in all namespaces, by a ClusterRole: secrets is forbidden: cannot list`,
		},
		"what is not served any more": {"secrets", "ns", "a", apierrors.NewNotFound(gr, ""), codes.NotFound, `serves no secrets`},
		"what cannot be watched": {
			"secrets", "ns", "a", apierrors.NewMethodNotSupported(gr, "watch"), codes.InvalidArgument,
			`secrets cannot be listed and watched: watch is not supported`,
		},
		"an API server that is away": {
			"secrets", "ns", "a", errors.New("connection refused"), codes.Unavailable,
			`the API server of the cluster cannot be asked for secrets, and nothing is known of them yet: connection refused`,
		},
		"an API server that has enough": {"secrets", "ns", "a", apierrors.NewTooManyRequests("busy", 1), codes.Unavailable, `busy`},
		"a cache that has enough":       {"secrets", "ns", "a", fmt.Errorf("so: %w", status.Error(codes.ResourceExhausted, "too many resources")), codes.ResourceExhausted, `too many resources`},
	} {
		t.Run(name, func(t *testing.T) {
			c.fail(secrets, objects.Whole, row.err)
			_, err := s.Get(t.Context(), &clusterstate.GetRequest{Resource: resource("", "", row.resource), Namespace: row.namespace, Name: row.name})
			require.Equal(t, row.code, status.Code(err), err)
			require.Contains(t, status.Convert(err).Message(), row.text)
			require.Zero(t, c.held())
		})
	}
	require.Equal(t, map[string]int{"": 1}, c.unserved, "what is not served any more is looked up anew")
	c.fail(secrets, objects.Whole, errors.New("cancelled"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, &clusterstate.GetRequest{Resource: resource("", "", "secrets"), Namespace: "ns", Name: "a"})
	require.Equal(t, codes.Canceled, status.Code(err))
}

func TestList_SelectsAndOrders(t *testing.T) {
	c := newFakeCache()
	web := labels.Set{"app": "web"}
	c.put(pods, objects.Whole, newFakeView(
		object("b", "1", "1", web, phase("Running")), object("a", "2", "2", web, phase("Pending")),
		object("a", "1", "3", nil, phase("Running")), object("a-b", "1", "4", web, phase("Running"))))
	c.put(pods, objects.Table, table(
		row("b", "1", "1", web, "Running"), row("a", "2", "2", web, "Pending"), row("a", "1", "3", nil, "Running")))
	s := newServer(t, c, nil)
	for _, test := range []struct {
		query *clusterstate.Query
		want  string
	}{
		{&clusterstate.Query{}, "a/1 a/2 a-b/1 b/1"},
		{&clusterstate.Query{Namespace: "a"}, "a/1 a/2"},
		{&clusterstate.Query{LabelSelector: "app=web"}, "a/2 a-b/1 b/1"},
		{&clusterstate.Query{LabelSelector: "app=web", FieldSelector: "status.phase=Running"}, "a-b/1 b/1"},
		{&clusterstate.Query{FieldSelector: "metadata.name!=1"}, "a/2"},
		{&clusterstate.Query{FieldSelector: "status.phase=Running", Shape: clusterstate.Shape_SHAPE_METADATA}, "a/1 a-b/1 b/1"},
		{&clusterstate.Query{FieldSelector: "status.phase=Running", Shape: clusterstate.Shape_SHAPE_TABLE}, "a/1 b/1"},
		{&clusterstate.Query{FieldSelector: "status.phase=Running", LabelSelector: "app", Shape: clusterstate.Shape_SHAPE_TABLE}, "b/1"},
		{&clusterstate.Query{Namespace: "nowhere"}, ""},
	} {
		test.query.Resource = resource("", "", "pods")
		parts, err := list(t, s, &clusterstate.ListRequest{Query: test.query})
		require.NoError(t, err)
		require.Len(t, parts, 1)
		require.Equal(t, "Pod", parts[0].GetSource().GetKind())
		var got []string
		for _, it := range parts[0].GetItems() {
			got = append(got, it.GetNamespace()+"/"+it.GetName())
			switch test.query.GetShape() {
			case clusterstate.Shape_SHAPE_TABLE:
				require.Empty(t, it.GetJson())
				require.Equal(t, "5h", it.GetCells()[2])
			case clusterstate.Shape_SHAPE_METADATA:
				require.NotContains(t, string(it.GetJson()), "status")
				require.Contains(t, string(it.GetJson()), `"metadata"`)
			default:
				require.Contains(t, string(it.GetJson()), "status")
			}
		}
		require.Equal(t, test.want, strings.Join(got, " "), test.query)
		require.Zero(t, c.held())
	}
}

func TestList_PagesGoOnWhereTheyEndedWhileObjectsComeAndGo(t *testing.T) {
	c := newFakeCache()
	view := newFakeView()
	for i := range 10 {
		view.set(object("ns", fmt.Sprintf("pod-%d", i), "1", labels.Set{"even": fmt.Sprint(i%2 == 0)}, nil))
	}
	c.put(pods, objects.Whole, view)
	s := newServer(t, c, nil)
	page := func(req *clusterstate.ListRequest) *clusterstate.ListResponse {
		parts, err := list(t, s, req)
		require.NoError(t, err)
		require.Len(t, parts, 1)
		return parts[0]
	}
	req := &clusterstate.ListRequest{Query: &clusterstate.Query{Resource: resource("", "", "pods")}, Limit: 4}
	first := page(req)
	require.Equal(t, "pod-0 pod-1 pod-2 pod-3", names(first.GetItems()))
	require.EqualValues(t, 6, first.GetRemaining())
	view.remove("ns", "pod-3") // where it is to go on
	view.set(object("ns", "pod-1a", "1", nil, nil))
	view.set(object("ns", "pod-4a", "1", nil, nil))
	view.remove("ns", "pod-5")
	req.Continue = first.GetContinue()
	second := page(req)
	require.Equal(t, "pod-4 pod-4a pod-6 pod-7", names(second.GetItems()))
	require.EqualValues(t, 2, second.GetRemaining())
	req.Continue = second.GetContinue()
	third := page(req)
	require.Equal(t, "pod-8 pod-9", names(third.GetItems()))
	require.Empty(t, third.GetContinue())
	require.Zero(t, third.GetRemaining())

	even := &clusterstate.ListRequest{Query: &clusterstate.Query{Resource: resource("", "", "pods"), LabelSelector: "even=true"}, Limit: 3}
	first = page(even)
	require.Equal(t, "pod-0 pod-2 pod-4", names(first.GetItems()))
	require.EqualValues(t, 2, first.GetRemaining(), "those that are wanted")
	even.Continue, even.Limit = first.GetContinue(), 2
	last := page(even)
	require.Equal(t, "pod-6 pod-8", names(last.GetItems()))
	require.Empty(t, last.GetContinue())

	even.Continue = req.GetContinue()
	_, err := list(t, s, even)
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, "continue is not of an answer to this query")
}

func TestList_PartsAreSmallAndWhole(t *testing.T) {
	c := newFakeCache()
	view := newFakeView()
	big := map[string]any{"data": strings.Repeat("x", 300<<10)}
	huge := map[string]any{"data": strings.Repeat("x", 1500<<10)}
	for i := range 10 {
		more := big
		if i == 4 {
			more = huge
		}
		view.set(object("ns", fmt.Sprint(i), "1", nil, more))
	}
	c.put(pods, objects.Whole, view)
	parts, err := list(t, newServer(t, c, nil), &clusterstate.ListRequest{Query: &clusterstate.Query{Resource: resource("", "", "pods")}})
	require.NoError(t, err)
	var all []*clusterstate.Item
	for i, p := range parts {
		require.Equal(t, i == 0, p.GetSource() != nil)
		require.True(t, proto.Size(p) < 1<<20 || len(p.GetItems()) == 1, "part %d: %d bytes of %d items", i, proto.Size(p), len(p.GetItems()))
		all = append(all, p.GetItems()...)
	}
	require.Equal(t, "0 1 2 3 4 5 6 7 8 9", names(all))
	require.Len(t, parts, 6)
}

// TestEncoder_IsAsTheGeneratedCode holds what is encoded by hand against messages.
func TestEncoder_IsAsTheGeneratedCode(t *testing.T) {
	all := []*objects.Object{
		{},
		object("ns", "a", "7", nil, phase("Running")),
		{Name: "bad\xff", Created: time.Unix(-5, 0), JSON: []byte("{}"), Cells: []string{"a\xff", ""}},
		row("ns", "a", "7", nil, "Running"),
		{Name: "b", Cells: []string{"b", "", "", "beyond the columns"}},
	}
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		for i, o := range all {
			e := newEncoder(form, objects.Whole, tableColumns(), now)
			size := e.encode(o, false)
			data := e.appendItem(nil)
			require.Len(t, data, size)
			got := &clusterstate.Item{}
			require.NoError(t, proto.Unmarshal(data, got))
			want := newEncoder(form, objects.Whole, tableColumns(), now).message(o)
			require.True(t, proto.Equal(want, got), "%d: got %v, want %v", i, got, want)
			require.Empty(t, got.ProtoReflect().GetUnknown())

			size = e.encode(o, true)
			require.Len(t, e.appendItem(nil), size)
			require.NoError(t, proto.Unmarshal(e.appendItem(nil), got))
			want.Json, want.Cells = nil, nil
			require.True(t, proto.Equal(want, got), "%d, deleted: got %v, want %v", i, got, want)
		}
	}
}

func TestEncoder_AgesAreAsOfTheMoment(t *testing.T) {
	e := newEncoder(objects.Table, objects.Table, tableColumns(), now)
	for _, test := range []struct {
		created time.Time
		want    string
	}{
		{now.Add(-30 * time.Second), "30s"}, {now.Add(-30 * time.Second), "30s"}, {now.Add(-125 * time.Second), "2m5s"},
		{now.AddDate(0, 0, -30), "30d"}, {time.Time{}, "<unknown>"}, {now.Add(time.Minute), "<invalid>"},
	} {
		require.Equal(t, test.want, e.ageOf(test.created))
	}
	e.at(now.Add(time.Minute))
	require.Equal(t, "90s", e.ageOf(now.Add(-30*time.Second)))
}

// discard is a stream whose other end takes everything at once.
type discard struct {
	stream[clusterstate.ListResponse, *clusterstate.ListResponse]
	bytes int
}

func (d *discard) SendMsg(m any) error {
	if raw, ok := m.(*grpctool.Raw); ok {
		d.bytes += len(raw.Data)
	}
	return nil
}

func BenchmarkList(b *testing.B) {
	const n = 10_000
	var rows, wholes []*objects.Object
	for i := range n {
		name := fmt.Sprintf("web-%08d-abcde", i)
		set := labels.Set{"app": "web", "pod-template-hash": "66cf7"}
		r := row("default", name, fmt.Sprint(i), set, "1/1", "Running", "0", "10.0.0.1", "node-1", "<none>", "<none>")
		r.Created = now.Add(-time.Duration(i) * time.Second)
		rows = append(rows, r)
		p := "Running"
		if i%10 == 0 {
			p = "Pending"
		}
		wholes = append(wholes, object("default", name, fmt.Sprint(i), set, map[string]any{
			"spec": map[string]any{"containers": strings.Repeat("x", 1500)}, "status": map[string]any{"phase": p},
		}))
	}
	c := newFakeCache()
	columns := append([]objects.Column{{Name: "Name"}}, make([]objects.Column, 7)...)
	columns = append(columns, objects.Column{Name: "Age", Age: true})
	view := &fixedView{fakeView: newFakeView(), all: rows}
	view.columns = columns
	wholeView := &fixedView{fakeView: newFakeView(), all: wholes}
	cache := fixedCache{fakeCache: c, views: map[objects.Form]objects.View{objects.Table: view, objects.Whole: wholeView}}
	s, err := NewServer(Config{Registerer: registry()}, c, cache)
	require.NoError(b, err)
	for name, q := range map[string]*clusterstate.Query{
		"table":                    {Shape: clusterstate.Shape_SHAPE_TABLE},
		"table by label":           {Shape: clusterstate.Shape_SHAPE_TABLE, LabelSelector: "app=web"},
		"table by field":           {Shape: clusterstate.Shape_SHAPE_TABLE, FieldSelector: "status.phase=Running"},
		"objects":                  {},
		"objects by field, few":    {FieldSelector: "status.phase=Pending"},
		"objects by field, none":   {FieldSelector: "status.phase=Failed"},
		"metadata of whole, field": {Shape: clusterstate.Shape_SHAPE_METADATA, FieldSelector: "status.phase=Running"},
	} {
		q.Resource = resource("", "", "pods")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			d := &discard{}
			d.ctx = b.Context()
			for b.Loop() {
				if err := s.List(&clusterstate.ListRequest{Query: q}, d); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(d.bytes / b.N))
		})
	}
}

package query

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

func resource(group, version, resource string) *clusterstate.Resource {
	return &clusterstate.Resource{Group: group, Version: version, Resource: resource}
}

func TestQuestion_MistakesSayWhatToDo(t *testing.T) {
	for name, row := range map[string]struct {
		query *clusterstate.Query
		want  string
	}{
		"nothing":                    {nil, `resource is empty: name it as URLs of the Kubernetes API do`},
		"a kind":                     {&clusterstate.Query{Resource: resource("", "", "Pod")}, `"Pod" is no resource: write the plural in lower case`},
		"a subresource":              {&clusterstate.Query{Resource: resource("", "", "pods/log")}, `"pods/log" is no resource`},
		"a path":                     {&clusterstate.Query{Resource: resource("../api", "", "pods")}, `"../api" is no group`},
		"a group with a version":     {&clusterstate.Query{Resource: resource("apps/v1", "", "deployments")}, `"apps/v1" is no group of resources: write for example "apps", without a version`},
		"a version that is a path":   {&clusterstate.Query{Resource: resource("apps", "..", "deployments")}, `".." is no version`},
		"a label selector":           {&clusterstate.Query{Resource: resource("", "", "pods"), LabelSelector: "a in ("}, `label_selector "a in (" cannot be read: `},
		"a field selector":           {&clusterstate.Query{Resource: resource("", "", "pods"), FieldSelector: "a"}, `field_selector "a" cannot be read: `},
		"an element of a list":       {&clusterstate.Query{Resource: resource("", "", "pods"), FieldSelector: "spec.containers[0].name=a"}, `"spec.containers[0].name" is no field`},
		"an empty part of a field":   {&clusterstate.Query{Resource: resource("", "", "pods"), FieldSelector: "spec..a=b"}, `"spec..a" is no field`},
		"a shape of a later version": {&clusterstate.Query{Resource: resource("", "", "pods"), Shape: 99}, `shape 99 is not known to this agentk`},
		"a field of the metadata of a Secret that is not its name": {
			&clusterstate.Query{Resource: resource("", "", "secrets"), Shape: clusterstate.Shape_SHAPE_METADATA, FieldSelector: "type=Opaque"},
			`"type" is not known where only metadata of secrets is asked for: select by metadata.name and metadata.namespace, or ask for objects`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := questionOf(row.query)
			require.Equal(t, codes.InvalidArgument, status.Code(err), err)
			require.Contains(t, status.Convert(err).Message(), row.want)
		})
	}
}

func TestQuestion_ViewIsOneThatHasWhatIsSelectedBy(t *testing.T) {
	for name, row := range map[string]struct {
		shape  clusterstate.Shape
		fields string
		view   objects.Form
		joined bool
	}{
		"objects":                             {clusterstate.Shape_SHAPE_UNSPECIFIED, "status.phase=Running", objects.Whole, false},
		"metadata by name":                    {clusterstate.Shape_SHAPE_METADATA, "metadata.name=a,metadata.namespace!=b", objects.Metadata, false},
		"metadata by what only the whole has": {clusterstate.Shape_SHAPE_METADATA, "status.phase=Running", objects.Whole, false},
		"a table by name":                     {clusterstate.Shape_SHAPE_TABLE, "metadata.name=a", objects.Table, false},
		"a table by what only the whole has":  {clusterstate.Shape_SHAPE_TABLE, "status.phase=Running", objects.Table, true},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := questionOf(&clusterstate.Query{Resource: resource("", "", "pods"), Shape: row.shape, FieldSelector: row.fields})
			require.NoError(t, err)
			require.Equal(t, row.view, q.view)
			require.Equal(t, row.joined, q.joined)
		})
	}
}

func TestFilter_Matches(t *testing.T) {
	pod := object("ns", "web-1", "7", labels.Set{"app": "web"}, map[string]any{
		"spec":   map[string]any{"nodeName": "node-1", "replicas": 3, "hostNetwork": true, "quoted": `a"b<c`},
		"status": map[string]any{"phase": "Running"},
	})
	for _, row := range []struct {
		namespace, labels, fields string
		want                      bool
	}{
		{"", "", "", true},
		{"ns", "", "", true},
		{"other", "", "", false},
		{"", "app=web", "", true},
		{"", "app notin (web)", "", false},
		{"", "!gone", "", true},
		{"", "", "metadata.name=web-1", true},
		{"", "", "metadata.name!=web-1", false},
		{"", "", "metadata.namespace=ns", true},
		{"", "", "status.phase=Running", true},
		{"", "", ".status.phase==Running", true},
		{"", "", "status.phase=Pending", false},
		{"", "", "status.phase!=Pending", true},
		{"", "", "status.phase!=Running", false},
		{"", "", "spec.phase=Running", false}, // it is elsewhere
		{"", "", "spec.replicas=3,spec.hostNetwork=true", true},
		{"", "", "spec.replicas=4", false},
		{"", "", `spec.quoted=a"b<c`, true},
		{"", "", "spec.gone=", true},
		{"", "", "spec.gone!=a", true},
		{"", "", "spec=", true}, // neither text nor number
		{"", "", "spec.nodeName!=", true},
		{"ns", "app", "status.phase=Running,spec.nodeName=node-2", false},
	} {
		q, err := questionOf(&clusterstate.Query{
			Resource: resource("", "", "pods"), Namespace: row.namespace, LabelSelector: row.labels, FieldSelector: row.fields,
		})
		require.NoError(t, err)
		require.Equal(t, row.want, q.filter.matches(pod), row)
	}
}

func TestToken_IsOfItsQuestionAlone(t *testing.T) {
	query := func(change func(*clusterstate.Query)) *question {
		q := &clusterstate.Query{Resource: resource("apps", "", "deployments"), Namespace: "ns"}
		if change != nil {
			change(q)
		}
		out, err := questionOf(q)
		require.NoError(t, err)
		return out
	}
	mine := query(nil)
	same := query(func(q *clusterstate.Query) { q.Shape = clusterstate.Shape_SHAPE_OBJECT })
	at, key := objects.Position{Epoch: "e", Sequence: 300}, objects.Key{Namespace: "a", Name: "b"}
	require.Equal(t, &at, same.readCursor(mine.cursor(at)))
	got, err := same.readContinue(mine.continueAfter(key))
	require.NoError(t, err)
	require.Equal(t, key, got)
	require.Nil(t, mine.readCursor(mine.unfinished(at, 1)), "what was cut off in the middle begins anew")
	require.NotEqual(t, mine.unfinished(at, 1), mine.unfinished(at, 2))
	for name, other := range map[string]func(*clusterstate.Query){
		"resource":  func(q *clusterstate.Query) { q.Resource = resource("apps", "", "replicasets") },
		"version":   func(q *clusterstate.Query) { q.Resource = resource("apps", "v1", "deployments") },
		"namespace": func(q *clusterstate.Query) { q.Namespace = "" },
		"selector":  func(q *clusterstate.Query) { q.LabelSelector = "a" },
		"fields":    func(q *clusterstate.Query) { q.FieldSelector = "metadata.name=a" },
		"shape":     func(q *clusterstate.Query) { q.Shape = clusterstate.Shape_SHAPE_TABLE },
	} {
		require.Nil(t, query(other).readCursor(mine.cursor(at)), name)
		_, err := query(other).readContinue(mine.continueAfter(key))
		require.Equal(t, codes.InvalidArgument, status.Code(err), name)
	}
}

func FuzzReadToken(f *testing.F) {
	q := &question{hash: 7}
	f.Add(q.cursor(objects.Position{Epoch: "e", Sequence: 1}))
	f.Add(q.continueAfter(objects.Key{Namespace: "a", Name: "b"}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if p := q.readCursor(text); p != nil && *q.readCursor(q.cursor(*p)) != *p {
			t.Errorf("%q reads as %v", text, p)
		}
		if k, err := q.readContinue(text); err == nil {
			if again, err := q.readContinue(q.continueAfter(k)); err != nil || again != k {
				t.Errorf("%q reads as %v", text, k)
			}
		}
	})
}

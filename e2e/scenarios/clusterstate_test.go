package scenarios

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/e2e/harness"
)

// lastApplied is where kubectl keeps what it applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// age is how kubectl tells one.
var age = regexp.MustCompile(`^([0-9]+[ydhms])+$`)

// workload is a bit of everything that people look at.
const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "registry.example.com/web:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, name: http}, {port: 443, name: https}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {key: value, other: "1"}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {ingressClassName: none, rules: [{host: web.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`

// apply puts manifests into the fixture's namespace as people do.
func apply(f *harness.Fixture, manifests string) {
	f.T.Helper()
	f.Manifests.Write("applied-by-hand.yaml", manifests) // in the work tree alone
	kubectl(f.T, f, "--namespace", f.Name, "apply", "--filename", f.Manifests.Dir+"/applied-by-hand.yaml")
}

// core is a resource of the core group.
func core(resource string) *clusterstate.Resource { return &clusterstate.Resource{Resource: resource} }

// inNamespace is a query for the fixture's namespace.
func inNamespace(f *harness.Fixture, r *clusterstate.Resource, shape clusterstate.Shape) *clusterstate.Query {
	return &clusterstate.Query{Resource: r, Namespace: f.Name, Shape: shape}
}

// isCode is an error unless err has the code and its text has the parts.
func isCode(err error, code codes.Code, parts ...string) error {
	if status.Code(err) != code {
		return fmt.Errorf("error %w, want %s", err, code)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			return fmt.Errorf("error %w does not say %q", err, part)
		}
	}
	return nil
}

func TestClusterState_ObjectsAreThoseOfTheAPIServer(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	apply(f, workload)
	deployment := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	state := f.ClusterState()
	resource := &clusterstate.Resource{Group: "apps", Resource: "deployments"}
	f.Eventually(func() error { // its status goes on changing for a while
		want, err := f.Dynamic.Resource(deployment).Namespace(f.Name).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if want.GetAnnotations()[lastApplied] == "" {
			t.Fatal("kubectl has left no annotation: this test tests less than it should")
		}
		got, err := state.Get(&clusterstate.GetRequest{Resource: resource, Namespace: f.Name, Name: "web"})
		if err != nil {
			return err
		}
		item, source := got.GetItem(), got.GetSource()
		if item.GetNamespace() != f.Name || item.GetName() != "web" || item.GetUid() != string(want.GetUID()) ||
			item.GetResourceVersion() != want.GetResourceVersion() || item.GetCreated() != want.GetCreationTimestamp().Unix() {
			return fmt.Errorf("the item is %v, want %v", item, want)
		}
		if source.GetVersion() != "v1" || source.GetKind() != "Deployment" || !source.GetNamespaced() || source.GetRedacted() ||
			source.GetResourceVersion() == "" || !source.GetCurrentAt().IsValid() {
			return fmt.Errorf("the source is %v", source)
		}
		return sameObject(want, item.GetJson())
	})

	list, err := state.List(&clusterstate.ListRequest{Query: inNamespace(f, core("configmaps"), clusterstate.Shape_SHAPE_METADATA)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{f.Name + "/kube-root-ca.crt", f.Name + "/settings"}, list.Names()); diff != "" {
		t.Fatalf("the names differ (-want +got):\n%s", diff)
	}
	var shown map[string]any
	if err := json.Unmarshal(list.Items[1].GetJson(), &shown); err != nil {
		t.Fatal(err)
	}
	cm := f.ConfigMap("settings")
	want := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{
		"name": "settings", "namespace": f.Name, "uid": string(cm.UID), "resourceVersion": cm.ResourceVersion,
		"creationTimestamp": cm.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z"), "labels": map[string]any{"app": "web"},
	}}
	if metadata, ok := shown["metadata"].(map[string]any); ok {
		if annotations, ok := metadata["annotations"].(map[string]any); ok && len(annotations) == 0 {
			delete(metadata, "annotations") // none left, or none at all: the same
		}
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("the metadata differs (-want +got):\n%s", diff)
	}
	_, err = state.Get(&clusterstate.GetRequest{Resource: core("configmaps"), Namespace: f.Name, Name: "not-there"})
	if err := isCode(err, codes.NotFound, "not-there"); err != nil {
		t.Error(err)
	}
}

// sameObject is an error unless shown is the object without what nobody looks for.
func sameObject(want *unstructured.Unstructured, shown []byte) error {
	want = want.DeepCopy()
	got := &unstructured.Unstructured{}
	if err := got.UnmarshalJSON(shown); err != nil {
		return fmt.Errorf("decode %s: %w", shown, err)
	}
	want.SetManagedFields(nil)
	for _, o := range []*unstructured.Unstructured{want, got} {
		annotations := o.GetAnnotations()
		if o == want {
			delete(annotations, lastApplied)
		}
		if len(annotations) == 0 { // none left, or none at all: the same
			unstructured.RemoveNestedField(o.Object, "metadata", "annotations")
		} else {
			o.SetAnnotations(annotations)
		}
	}
	if diff := cmp.Diff(want.Object, got.Object); diff != "" {
		return fmt.Errorf("the object differs (-want +got):\n%s", diff)
	}
	return nil
}

func TestClusterState_TablesAreThoseOfTheAPIServer(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	crd := widgetTableCRD(f.Name + ".example.com")
	apply(f, workload+"---\n"+crd)
	kubectl(f.T, f, "wait", "--for=condition=Established", "crd/widgets."+f.Name+".example.com")
	apply(f, fmt.Sprintf(widgetsToPrint, f.Name, f.Name))
	state := f.ClusterState()
	for _, r := range []*clusterstate.Resource{
		core("configmaps"), core("pods"), core("services"), core("serviceaccounts"), core("secrets"),
		{Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "replicasets"},
		{Group: "networking.k8s.io", Resource: "ingresses"}, {Group: "rbac.authorization.k8s.io", Resource: "roles"},
		{Group: f.Name + ".example.com", Resource: "widgets"},
	} {
		t.Run(r.GetResource(), func(t *testing.T) {
			f := f.For(t)
			f.Eventually(func() error {
				want := serverTable(f, r, f.Name)
				got, err := state.List(&clusterstate.ListRequest{Query: inNamespace(f, r, clusterstate.Shape_SHAPE_TABLE)})
				if err != nil {
					return err
				}
				if len(want.Rows) == 0 && r.GetResource() != "secrets" {
					return fmt.Errorf("no %s yet: this test tests nothing", r.GetResource())
				}
				return sameTable(want, &got)
			})
		})
	}
	t.Run("nodes", func(t *testing.T) { // cluster-wide, and what all tests share
		f := f.For(t)
		f.Eventually(func() error {
			r := core("nodes")
			got, err := state.List(&clusterstate.ListRequest{Query: &clusterstate.Query{Resource: r, Shape: clusterstate.Shape_SHAPE_TABLE}})
			if err != nil {
				return err
			}
			return sameTable(serverTable(f, r, ""), &got)
		})
	})
	// One row alone is as in the list.
	one, err := state.Get(&clusterstate.GetRequest{
		Resource: core("configmaps"), Namespace: f.Name, Name: "settings", Shape: clusterstate.Shape_SHAPE_TABLE,
	})
	if err != nil {
		t.Fatal(err)
	}
	if cells := one.GetItem().GetCells(); len(cells) != 3 || cells[0] != "settings" || cells[1] != "2" || !age.MatchString(cells[2]) {
		t.Errorf("the row is %q of columns %v", cells, one.GetColumns())
	}
}

// widgetTableCRD has columns of each type.
func widgetTableCRD(group string) string {
	return strings.Replace(widgetCRD(group), "    schema:", `    additionalPrinterColumns:
    - {name: Phase, type: string, jsonPath: .spec.phase, description: How it fares}
    - {name: Count, type: integer, jsonPath: .spec.count}
    - {name: Ratio, type: number, jsonPath: .spec.ratio, priority: 1}
    - {name: Good, type: boolean, jsonPath: .spec.good}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:`, 1)
}

const widgetsToPrint = `
apiVersion: %s.example.com/v1
kind: Widget
metadata: {name: whole}
spec: {phase: "Ready <now>", count: 12345678901, ratio: 0.25, good: true}
---
apiVersion: %s.example.com/v1
kind: Widget
metadata: {name: empty}
`

// serverTable is the API server's own, in the order of namespaces and names.
func serverTable(f *harness.Fixture, r *clusterstate.Resource, namespace string) *metav1.Table {
	f.T.Helper()
	path := "/api/v1"
	if r.GetGroup() != "" {
		path = "/apis/" + r.GetGroup() + "/v1"
	}
	if namespace != "" {
		path += "/namespaces/" + namespace
	}
	body, err := f.Kube.CoreV1().RESTClient().Get().AbsPath(path+"/"+r.GetResource()).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(f.T.Context())
	if err != nil {
		f.T.Fatal(err)
	}
	table := &metav1.Table{}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.UseNumber() // numbers as the server writes them
	if err := decoder.Decode(table); err != nil {
		f.T.Fatal(err)
	}
	return table
}

// sameTable is an error unless got has the columns and rows of want, ages aside.
func sameTable(want *metav1.Table, got *harness.Listed) error {
	var columns []*clusterstate.Column
	for _, c := range want.ColumnDefinitions {
		columns = append(columns, &clusterstate.Column{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority,
			Age: c.Name == "Age",
		})
	}
	if !slices.EqualFunc(columns, got.Columns, func(a, b *clusterstate.Column) bool { return a.String() == b.String() }) {
		return fmt.Errorf("the columns are %v, want %v", got.Columns, columns)
	}
	if len(got.Items) != len(want.Rows) {
		return fmt.Errorf("%d rows, want %d", len(got.Items), len(want.Rows))
	}
	for i, row := range want.Rows {
		cells := got.Items[i].GetCells()
		if len(cells) != len(row.Cells) {
			return fmt.Errorf("the row %q has not %d cells", cells, len(row.Cells))
		}
		for n, cell := range row.Cells {
			text := cellText(cell)
			switch {
			case columns[n].Name == "Age" && age.MatchString(text):
				if !age.MatchString(cells[n]) {
					return fmt.Errorf("%q is no age", cells[n])
				}
			case cells[n] != text:
				return fmt.Errorf("%s of row %d is %q, want %q", columns[n].Name, i, cells[n], text)
			}
		}
	}
	return nil
}

// cellText is what kubectl prints.
func cellText(cell any) string {
	switch c := cell.(type) {
	case nil:
		return ""
	case string:
		return c
	case bool:
		return strconv.FormatBool(c)
	default:
		return fmt.Sprint(c)
	}
}

func TestClusterState_SecretsHaveNoValues(t *testing.T) {
	t.Parallel()
	const value = "correct horse battery staple"
	f := env.New(t)
	apply(f, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {app: web}}\nstringData: {password: "+value+"}\n")
	state := f.ClusterState()
	get := &clusterstate.GetRequest{Resource: core("secrets"), Namespace: f.Name, Name: "s"}
	has := func(json []byte) bool {
		return strings.Contains(string(json), base64.StdEncoding.EncodeToString([]byte(value))) || strings.Contains(string(json), value)
	}
	for _, shape := range []clusterstate.Shape{
		clusterstate.Shape_SHAPE_OBJECT, clusterstate.Shape_SHAPE_METADATA, clusterstate.Shape_SHAPE_TABLE,
	} {
		get.Shape = shape
		answer, err := state.Get(get)
		if err != nil {
			t.Fatalf("%s: %v", shape, err)
		}
		if has(answer.GetItem().GetJson()) {
			t.Errorf("%s: the Secret shows its value: %s", shape, answer.GetItem().GetJson())
		}
		if shape == clusterstate.Shape_SHAPE_OBJECT && !answer.GetSource().GetRedacted() {
			t.Error("the answer does not say that values are left out")
		}
	}
	get.Shape = clusterstate.Shape_SHAPE_OBJECT
	f.ConfigureFile(secretValues(f, true))
	f.Eventually(func() error {
		answer, err := state.Get(get)
		if err == nil && (answer.GetSource().GetRedacted() || !has(answer.GetItem().GetJson())) {
			err = fmt.Errorf("no value, though the configuration says so: %s", answer.GetItem().GetJson())
		}
		return err
	})
	f.ConfigureFile(secretValues(f, false))
	f.Eventually(func() error {
		answer, err := state.Get(get)
		if err == nil && (!answer.GetSource().GetRedacted() || has(answer.GetItem().GetJson())) {
			err = fmt.Errorf("the value is still there: %s", answer.GetItem().GetJson())
		}
		return err
	})
}

// secretValues is a configuration that says whether values of Secrets are kept.
func secretValues(f *harness.Fixture, keep bool) string {
	return "gitops:\n  manifest_projects:\n  - id: " + f.Manifests.Path + "\n    default_namespace: " + f.Name +
		"\ncluster_state:\n  secret_values: " + strconv.FormatBool(keep) + "\n"
}

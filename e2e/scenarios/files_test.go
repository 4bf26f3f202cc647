package scenarios

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/e2e/harness"
)

func TestFile_CreatedChangedDeleted(t *testing.T) {
	t.Parallel()
	f := env.New(t)

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("b.yaml", harness.ConfigMap("b", "1"))
	status := f.WaitSynced(f.Manifests.Push("Create"))
	f.WaitConfigMap("a", "1")
	if o := harness.Object(status, "ConfigMap", "a"); o.GetAction() != syncstatus.Action_ACTION_CREATED ||
		o.GetHealth() != syncstatus.Health_HEALTH_CURRENT || o.GetSourcePath() != "a.yaml" || o.GetSourceLine() != 1 {
		t.Errorf("after the creation, a is %v", o)
	}
	b := f.ConfigMap("b")

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	status = f.WaitSynced(f.Manifests.Push("Change"))
	f.WaitConfigMap("a", "2")
	if o := harness.Object(status, "ConfigMap", "a"); o.GetAction() != syncstatus.Action_ACTION_CONFIGURED {
		t.Errorf("after the change, a is %v", o)
	}
	if o := harness.Object(status, "ConfigMap", "b"); o.GetAction() != syncstatus.Action_ACTION_UNCHANGED {
		t.Errorf("after the change of a, b is %v", o)
	}
	if now := f.ConfigMap("b"); now.ResourceVersion != b.ResourceVersion {
		t.Error("b was touched though it did not change")
	}

	f.Manifests.Git("rm", "--quiet", "a.yaml")
	f.WaitSynced(f.Manifests.Push("Delete"))
	f.ExpectGone("a")
	f.WaitConfigMap("b", "1")
}

func TestFile_RenamedObjectStays(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("old.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	before := f.ConfigMap("a")

	f.Manifests.Git("mv", "old.yaml", "new.yaml")
	status := f.WaitSynced(f.Manifests.Push("Rename"))
	if after := f.ConfigMap("a"); after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the object was touched: %s, %s, before %s, %s", after.UID, after.ResourceVersion, before.UID, before.ResourceVersion)
	}
	if o := harness.Object(status, "ConfigMap", "a"); o.GetSourcePath() != "new.yaml" {
		t.Errorf("the status says it comes from %q", o.GetSourcePath())
	}
}

func TestFile_ObjectMovedToAnother(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("one.yaml", harness.ConfigMap("a", "1")+"---\n"+harness.ConfigMap("b", "1"))
	f.Manifests.Write("two.yaml", harness.ConfigMap("c", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))
	before := f.ConfigMap("b")

	f.Manifests.Write("one.yaml", harness.ConfigMap("a", "1"))
	f.Manifests.Write("two.yaml", harness.ConfigMap("c", "1")+"---\n"+harness.ConfigMap("b", "1"))
	status := f.WaitSynced(f.Manifests.Push("Move"))
	if after := f.ConfigMap("b"); after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Error("the moved object was touched")
	}
	if o := harness.Object(status, "ConfigMap", "b"); o.GetSourcePath() != "two.yaml" || o.GetSourceLine() != 8 {
		t.Errorf("the status says it comes from %s:%d", o.GetSourcePath(), o.GetSourceLine())
	}
}

func TestDefaultNamespace_IsForThoseThatNameNone(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	other := f.Name + "-other"
	f.CreateNamespace(other)
	f.Manifests.Write("a.yaml", harness.ConfigMap("here", "1"))
	f.Manifests.Write("b.yaml", strings.Replace(harness.ConfigMap("there", "1"), "  name: there", "  name: there\n  namespace: "+other, 1))
	f.Manifests.Write("c.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: "+f.Name+"\n")
	f.WaitSynced(f.Manifests.Push("Create"))
	f.WaitConfigMap("here", "1")
	if _, err := f.Kube.CoreV1().ConfigMaps(other).Get(t.Context(), "there", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := f.Kube.RbacV1().ClusterRoles().Get(t.Context(), f.Name, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	for _, file := range []string{"a.yaml", "b.yaml", "c.yaml"} {
		f.Manifests.Git("rm", "--quiet", file)
	}
	f.Manifests.Write("d.yaml", harness.ConfigMap("last", "1"))
	f.WaitSynced(f.Manifests.Push("Delete"))
	f.ExpectGone("here")
}

func TestCRD_AndItsResourceInOneCommit(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	group := f.Name + ".example.com"
	f.Manifests.Write("a-resource.yaml", fmt.Sprintf("apiVersion: %s/v1\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: 3\n", group))
	f.Manifests.Write("b-definition.yaml", fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: widgets.%s
spec:
  group: %s
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
`, group, group))
	f.WaitSynced(f.Manifests.Push("Define and use"))
	widgets := f.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}).Namespace(f.Name)
	w, err := widgets.Get(t.Context(), "w", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size, _, _ := unstructured.NestedInt64(w.Object, "spec", "size"); size != 3 {
		t.Errorf("size is %d", size)
	}
}

func TestGlobs_SelectFiles(t *testing.T) {
	t.Parallel()
	f := env.New(t, `paths: [{glob: "/apps/**/*.yaml"}, {glob: "top.json"}]`)
	f.Manifests.Write("apps/web/a.yaml", harness.ConfigMap("deep", "1"))
	f.Manifests.Write("apps/b.yaml", harness.ConfigMap("shallow", "1"))
	f.Manifests.Write("top.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"json"},"data":{"key":"1"}}`)
	f.Manifests.Write("other/c.yaml", harness.ConfigMap("other", "1"))
	f.Manifests.Write("apps/.hidden/d.yaml", harness.ConfigMap("hidden", "1"))
	f.Manifests.Write("apps/README.md", "# not a manifest\n")
	status := f.WaitSynced(f.Manifests.Push("Create"))
	for _, name := range []string{"deep", "shallow", "json"} {
		f.WaitConfigMap(name, "1")
	}
	f.ExpectGone("other")
	f.ExpectGone("hidden")
	if n := len(status.GetObjects()); n != 3 {
		t.Errorf("the status has %d objects:\n%s", n, harness.Summary(status))
	}
}

func TestDeployment_SyncedOnlyWhenRolledOut(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("web.yaml", `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web}]}
`)
	f.WaitSynced(f.Manifests.Push("Deploy"))
	d, err := f.Kube.AppsV1().Deployments(f.Name).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Status.ReadyReplicas != 2 {
		t.Errorf("Synced with %d of 2 replicas ready", d.Status.ReadyReplicas)
	}
}

func TestFailure_OfOneObjectStaysItsOwn(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	f.Manifests.Write("a.yaml", harness.ConfigMap("good", "1"))
	f.Manifests.Write("b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: bad\n  namespace: not-there-"+f.Name+"\n")
	commit := f.Manifests.Push("One good, one bad")
	f.WaitStatus(func(s *syncstatus.ProjectStatus) error {
		if err := harness.Is(syncstatus.State_STATE_PARTIAL, commit)(s); err != nil {
			return err
		}
		o := harness.Object(s, "ConfigMap", "bad") // pending while it is tried again
		if o.GetAction() != syncstatus.Action_ACTION_FAILED || !strings.Contains(o.GetMessage(), "not-there-"+f.Name) || o.GetSourcePath() != "b.yaml" {
			return fmt.Errorf("the bad object is %v", o)
		}
		return nil
	})
	f.WaitConfigMap("good", "1")
	// What it lacked appears: it is tried again without a new commit.
	f.CreateNamespace("not-there-" + f.Name)
	f.WaitSynced(commit)
}

func TestHundredsOfFiles_SecondSyncTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	const files = 1000
	f := env.New(t)
	for i := range files {
		name := fmt.Sprintf("cm-%04d", i)
		f.Manifests.Write("many/"+name+".yaml", harness.ConfigMap(name, "1"))
	}
	f.WaitSynced(f.Manifests.Push("Create many"))
	before := f.ConfigMapVersions()
	if len(before) != files {
		t.Fatalf("%d ConfigMaps, want %d", len(before), files)
	}
	f.Manifests.Write("many/cm-0500.yaml", harness.ConfigMap("cm-0500", "2"))
	f.WaitSynced(f.Manifests.Push("Change one"))
	f.WaitConfigMap("cm-0500", "2")
	after := f.ConfigMapVersions()
	for name, version := range before {
		if changed := after[name] != version; changed != (name == "cm-0500") {
			t.Errorf("%s: changed is %v", name, changed)
		}
	}
}

func TestSecondAgent_OnTheSameRepository(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	second := env.NewStopped(t)
	// The second agent follows the first one's manifests, in a namespace of its own.
	second.Manifests = f.Manifests
	second.Configure("default_namespace: " + second.Name)
	second.Agentk = second.NewAgentk("agentk")
	second.Start(second.Agentk)

	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	commit := f.Manifests.Push("Create")
	f.WaitSynced(commit)
	second.WaitSynced(commit)
	f.WaitConfigMap("a", "1")
	second.WaitConfigMap("a", "1")
}

func TestTwoReplicas_OneApplies(t *testing.T) {
	t.Parallel()
	f := env.New(t)
	replica := f.NewAgentk("replica")
	f.Start(replica)
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "1"))
	f.WaitSynced(f.Manifests.Push("Create"))

	// The leader goes away: the other one takes over.
	if err := f.Agentk.Stop(); err != nil {
		t.Fatal(err)
	}
	f.Manifests.Write("a.yaml", harness.ConfigMap("a", "2"))
	f.WaitSynced(f.Manifests.Push("Change"))
	f.WaitConfigMap("a", "2")
	f.Eventually(func() error {
		agents, err := f.Client().Agents(t.Context(), f.Config.Path)
		if err != nil {
			return err
		}
		if len(agents) != 1 || agents[0].Connected == nil || !*agents[0].Connected {
			return fmt.Errorf("ror says %+v", agents)
		}
		return nil
	})
}

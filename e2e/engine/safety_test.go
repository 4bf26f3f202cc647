package engine_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

// at runs the engine for a commit.
func (a *agent) at(commit string, yamls ...string) (gitops.Result, *log) {
	a.t.Helper()
	l := newLog()
	d := desired(a.t, yamls...)
	d.Commit = commit
	result, err := gitops.Run(a.t.Context(), a.cluster, a.project, d, l)
	require.NoError(a.t, err)
	return result, l
}

// foreign makes a ConfigMap that is nobody's.
func (a *agent) foreign(namespace, name string) *corev1.ConfigMap {
	a.t.Helper()
	cm, err := a.client.CoreV1().ConfigMaps(namespace).Create(a.t.Context(),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	return cm
}

// patch changes a ConfigMap of the agent's namespace as kubectl would.
func (a *agent) patch(name, patch string) {
	a.t.Helper()
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(a.t.Context(), name, types.MergePatchType,
		[]byte(patch), metav1.PatchOptions{})
	require.NoError(a.t, err)
}

// namespaceIs waits for a namespace to be as it is said: gone, or not.
func (a *agent) namespaceIsGone(name string) {
	a.t.Helper()
	testkit.Eventually(a.t, func() error {
		if _, err := a.client.CoreV1().Namespaces().Get(a.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errNotSo
		}
		return nil
	})
}

func namespaceOf(name string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + name + "\n"
}

// in puts a document into a namespace.
func in(namespace, doc, name string) string {
	return strings.Replace(doc, "name: "+name, "name: "+name+"\n  namespace: "+namespace, 1)
}

func TestSafety_GuardHoldsACommitUntilItIsApproved(t *testing.T) {
	a := newAgent(t)
	a.project.Guard = gitops.Guard{MinObjects: 10, MaxPercent: 50}
	a.at("1", docs("cm", "1", 15)...)

	result, l := a.at("2", append(docs("cm", "1", 3), configMap("new", "1"))...)
	require.Len(t, result.Held, 12)
	require.Contains(t, result.HeldBack, "would delete 12 of 15 objects")
	require.Equal(t, gitops.ActionCreated, l.get("ConfigMap/new").Action)
	require.Len(t, a.inventory(), 16)
	a.restart()
	result, _ = a.at("2", append(docs("cm", "1", 3), configMap("new", "1"))...)
	require.Len(t, result.Held, 12, "nor does another process delete them")

	a.project.Guard.Approved = "2"
	result, _ = a.at("2", append(docs("cm", "1", 3), configMap("new", "1"))...)
	require.Empty(t, result.Held)
	require.Len(t, a.inventory(), 4)
}

func TestSafety_NamespaceIsNotDeletedWithWhatOthersPutThere(t *testing.T) {
	a := newAgent(t)
	team := a.namespace + "-team"
	deployment := in(team, deploymentOf("app"), "app")
	a.at("1", namespaceOf(team), deployment, in(team, configMap("ours", "1"), "ours"), configMap("rest", "1"))
	// What Kubernetes puts there, and what belongs to a controller, must not count.
	testkit.Eventually(t, func() error {
		sets, err := a.client.AppsV1().ReplicaSets(team).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(sets.Items) == 0 {
			return errNotSo
		}
		_, err = a.client.CoreV1().ConfigMaps(team).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	for _, name := range []string{"f1", "f2", "f3", "f4"} {
		a.foreign(team, name)
	}

	result, l := a.at("2", configMap("rest", "1"))
	require.Len(t, result.Held, 1)
	require.Equal(t, gitops.ActionSkipped, l.get("Namespace/"+team).Action)
	require.Contains(t, l.get("Namespace/"+team).Message,
		fmt.Sprintf("ConfigMap %[1]s/f1, ConfigMap %[1]s/f2, ConfigMap %[1]s/f3 and 1 more", team))
	require.Contains(t, result.HeldBack, "kasctl approve 1 group/app 2")
	ns, err := a.client.CoreV1().Namespaces().Get(t.Context(), team, metav1.GetOptions{})
	require.NoError(t, err)
	require.Nil(t, ns.DeletionTimestamp)
	_, err = a.client.AppsV1().Deployments(team).Get(t.Context(), "app", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "our own objects are gone")

	a.project.Guard.Approved = "2"
	result, _ = a.at("2", configMap("rest", "1"))
	require.Empty(t, result.Held)
	a.namespaceIsGone(team)
}

func TestSafety_NamespaceWithNothingOfOthersIsDeletedAtOnce(t *testing.T) {
	a := newAgent(t)
	team := a.namespace + "-team"
	service := in(team, "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  selector: {app: app}\n  ports:\n  - port: 80\n", "s")
	a.at("1", namespaceOf(team), in(team, deploymentOf("app"), "app"), service, configMap("rest", "1"))
	testkit.Eventually(t, func() error {
		_, err := a.client.CoreV1().Endpoints(team).Get(t.Context(), "s", metav1.GetOptions{})
		return err
	})
	a.requests.reset()
	result, _ := a.at("2", configMap("rest", "1"))
	require.Empty(t, result.HeldBack)
	require.Empty(t, result.Held)
	t.Logf("%d reads to find that out", a.requests.reads.Load())
	a.namespaceIsGone(team)
}

func TestSafety_DefinitionIsNotDeletedWithInstancesOfOthers(t *testing.T) {
	a := newAgent(t)
	definition, group := crd(a, "Widget")
	widget := func(name string) string {
		return fmt.Sprintf("apiVersion: %s/v1\nkind: Widget\nmetadata:\n  name: %s\nspec:\n  size: 3\n", group, name)
	}
	a.at("1", definition, widget("ours"), configMap("rest", "1"))
	gvr := schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}
	theirs := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1", "kind": "Widget", "metadata": map[string]any{"name": "theirs"}, "spec": map[string]any{"size": int64(1)},
	}}
	_, err := a.dynamic.Resource(gvr).Namespace(a.namespace).Create(t.Context(), theirs, metav1.CreateOptions{})
	require.NoError(t, err)

	name := "CustomResourceDefinition/widgets." + group
	result, l := a.at("2", configMap("rest", "1"))
	require.Len(t, result.Held, 1)
	require.Equal(t, gitops.ActionPruned, l.get("Widget/ours").Action)
	require.Contains(t, l.get(name).Message, "it has instances, objects that this project does not delete: Widget "+a.namespace+"/theirs")

	require.NoError(t, a.dynamic.Resource(gvr).Namespace(a.namespace).Delete(t.Context(), "theirs", metav1.DeleteOptions{}))
	result, l = a.at("2", configMap("rest", "1"))
	require.Empty(t, result.Held)
	require.Contains(t, []gitops.Action{gitops.ActionPruned, gitops.ActionPruning}, l.get(name).Action)
}

func TestSafety_NamespaceThatCannotBeLookedIntoIsHeld(t *testing.T) {
	a := newAgent(t)
	team := a.namespace + "-team"
	a.at("1", namespaceOf(team), configMap("rest", "1"))

	// An API server of others that is down may have objects there, too.
	group, remove := a.downAPI()
	var result gitops.Result
	var l *log
	testkit.Eventually(t, func() error { // the API server takes a moment to find out
		result, l = a.at("2", namespaceOf(team), configMap("rest", "1"))
		_, err := a.client.Discovery().ServerPreferredNamespacedResources()
		if err == nil {
			return errNotSo
		}
		return nil
	})
	result, l = a.at("2", configMap("rest", "1"))
	require.Len(t, result.Held, 1)
	require.Contains(t, l.get("Namespace/"+team).Message, "it cannot be told what would be lost with it")
	require.Contains(t, l.get("Namespace/"+team).Message, group)
	remove()

	// Nor may what is forbidden to be seen be taken for nothing.
	a.stop()
	limited := rest.CopyConfig(server)
	limited.Impersonate = rest.ImpersonationConfig{UserName: a.namespace}
	a.allow(rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps", "namespaces"}, Verbs: []string{"*"}},
		rbacv1.PolicyRule{NonResourceURLs: []string{"*"}, Verbs: []string{"get"}})
	a.start(limited)
	testkit.Eventually(t, func() error { return a.may("list", "configmaps") })
	result, l = a.at("2", configMap("rest", "1"))
	require.Len(t, result.Held, 1)
	require.Contains(t, l.get("Namespace/"+team).Message, "forbidden")
}

// downAPI registers a group whose API server does not answer, until remove is called.
func (a *agent) downAPI() (group string, remove func()) {
	a.t.Helper()
	services := a.dynamic.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	group = a.namespace + ".down.example.com"
	_, err := services.Create(a.t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1." + group},
		"spec": map[string]any{
			"group": group, "version": "v1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
			"insecureSkipTLSVerify": true,
			"service":               map[string]any{"namespace": a.namespace, "name": "nothing"},
		},
	}}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	remove = sync.OnceFunc(func() {
		if err := services.Delete(context.WithoutCancel(a.t.Context()), "v1."+group, metav1.DeleteOptions{}); err != nil {
			a.t.Error(err)
		}
	})
	a.t.Cleanup(remove)
	return group, remove
}

func TestSafety_ObjectsOfAnAPIServerThatIsDownAreNotForgotten(t *testing.T) {
	a := newAgent(t)
	group, remove := a.downAPI()
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "inventory-" + a.project.Key, Labels: map[string]string{inventory.Label: a.project.Key}},
		Data:       map[string]string{a.namespace + "_x_" + group + "_Thing": ""},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	for range 3 {
		_, l := a.at("1", configMap("rest", "1"))
		require.NotContains(t, l.removed, "Thing/x")
		require.Len(t, a.inventory(), 2)
	}
	remove()
	testkit.Eventually(t, func() error {
		if a.at("1", configMap("rest", "1")); len(a.inventory()) != 1 {
			return errNotSo
		}
		return nil
	})
}

// allow gives rights to a user of the agent's name.
func (a *agent) allow(rules ...rbacv1.PolicyRule) {
	a.t.Helper()
	_, err := a.client.RbacV1().ClusterRoles().Create(a.t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace}, Rules: rules,
	}, metav1.CreateOptions{})
	require.NoError(a.t, err)
	_, err = a.client.RbacV1().ClusterRoleBindings().Create(a.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: a.namespace},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: a.namespace}},
	}, metav1.CreateOptions{})
	require.NoError(a.t, err)
}

// beforeDelete restarts the agent so that f is called before its first deletion.
func (a *agent) beforeDelete(f func()) (deletions *int) {
	a.t.Helper()
	a.stop()
	deletions = new(int)
	hooked := rest.CopyConfig(server)
	var once sync.Once
	hooked.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodDelete {
				once.Do(f)
				*deletions++
			}
			return next.RoundTrip(r)
		})
	})
	a.start(hooked)
	return deletions
}

func TestSafety_ObjectThatChangesBetweenLookAndDelete(t *testing.T) {
	for _, row := range []struct {
		name, patch string
		deletions   int
		check       func(t *testing.T, a *agent, result gitops.Result, l *log)
	}{
		{
			"is left alone if another inventory has taken it over",
			`{"metadata":{"annotations":{"` + gitops.OwnerAnnotation + `":"9-9"}}}`, 1,
			func(t *testing.T, a *agent, result gitops.Result, _ *log) {
				t.Helper()
				require.Equal(t, 1, result.Waiting)
				testkit.Eventually(t, func() error { // the cache follows
					_, l := a.at("2", configMap("rest", "1"))
					if len(l.removed) != 1 {
						return errNotSo
					}
					return nil
				})
				require.Equal(t, map[string]string{"key": "1"}, a.data("leaves"))
			},
		},
		{
			"is let go of if it has just been marked to stay",
			`{"metadata":{"annotations":{"cli-utils.sigs.k8s.io/on-remove":"keep"}}}`, 1,
			func(t *testing.T, a *agent, result gitops.Result, _ *log) {
				t.Helper()
				require.Equal(t, 1, result.Failed)
				testkit.Eventually(t, func() error { // the cache follows
					_, l := a.at("2", configMap("rest", "1"))
					if len(l.removed) != 1 {
						return errNotSo
					}
					return nil
				})
				require.Equal(t, map[string]string{"key": "1"}, a.data("leaves"))
			},
		},
		{
			"is deleted if it is still ours", `{"metadata":{"labels":{"x":"y"}}}`, 2,
			func(t *testing.T, a *agent, _ gitops.Result, l *log) {
				t.Helper()
				require.Equal(t, gitops.ActionPruned, l.get("ConfigMap/leaves").Action)
				require.Len(t, a.inventory(), 1)
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAgent(t)
			a.at("1", configMap("leaves", "1"), configMap("rest", "1"))
			deletions := a.beforeDelete(func() { a.patch("leaves", row.patch) })
			result, l := a.at("2", configMap("rest", "1"))
			require.Equal(t, row.deletions, *deletions)
			row.check(t, a, result, l)
		})
	}
}

func deploymentOf(name string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: c, image: example.com/i}]}
`, name)
}

func TestSafety_PropagationDecidesAboutDependents(t *testing.T) {
	for _, row := range []struct {
		policy string
		stays  bool
	}{{"Foreground", false}, {"Background", false}, {"Orphan", true}} {
		t.Run(row.policy, func(t *testing.T) {
			a := newAgent(t)
			a.project.Propagation = row.policy
			a.at("1", deploymentOf("app"), configMap("rest", "1"))
			var set *appsv1.ReplicaSet
			testkit.Eventually(t, func() error {
				sets, err := a.client.AppsV1().ReplicaSets(a.namespace).List(t.Context(), metav1.ListOptions{})
				if err != nil || len(sets.Items) == 0 {
					return errNotSo
				}
				set = &sets.Items[0]
				return nil
			})
			result, l := a.at("2", configMap("rest", "1"))
			ready := watch(t, a, result, l)
			testkit.Eventually(t, func() error { return ready.is(true, 0) })
			_, err := a.client.AppsV1().Deployments(a.namespace).Get(t.Context(), "app", metav1.GetOptions{})
			require.True(t, apierrors.IsNotFound(err))
			testkit.Eventually(t, func() error {
				now, err := a.client.AppsV1().ReplicaSets(a.namespace).Get(t.Context(), set.Name, metav1.GetOptions{})
				switch {
				case row.stays && (err != nil || now.UID != set.UID || metav1.GetControllerOf(now) != nil),
					!row.stays && !apierrors.IsNotFound(err):
					return fmt.Errorf("%w: %v %w", errNotSo, now.OwnerReferences, err)
				default:
					return nil
				}
			})
		})
	}
}

func TestSafety_LiveAnnotationsDecideWhatStays(t *testing.T) {
	a := newAgent(t)
	keep := "cli-utils.sigs.k8s.io/on-remove: keep"
	a.at("1", configMap("marked", "1"), annotated(configMap("unmarked", "1"), "unmarked", keep), configMap("rest", "1"))
	a.patch("marked", `{"metadata":{"annotations":{"client.lifecycle.config.k8s.io/deletion":"detach"}}}`)
	a.patch("unmarked", `{"metadata":{"annotations":{"cli-utils.sigs.k8s.io/on-remove":null}}}`)
	var l *log
	testkit.Eventually(t, func() error {
		marked, _ := a.cluster.Live(desired(t, in(a.namespace, configMap("marked", "1"), "marked")).Set.Objects[0].ID)
		unmarked, _ := a.cluster.Live(desired(t, in(a.namespace, configMap("unmarked", "1"), "unmarked")).Set.Objects[0].ID)
		if marked.Object == nil || unmarked.Object == nil ||
			marked.Object.Unstructured().GetAnnotations()["client.lifecycle.config.k8s.io/deletion"] == "" ||
			unmarked.Object.Unstructured().GetAnnotations()["cli-utils.sigs.k8s.io/on-remove"] != "" {
			return errNotSo
		}
		return nil
	})
	_, l = a.at("2", configMap("rest", "1"))
	require.Equal(t, gitops.ActionPruned, l.get("ConfigMap/unmarked").Action)
	require.Contains(t, l.removed, "ConfigMap/marked")
	require.Equal(t, map[string]string{"key": "1"}, a.data("marked"))
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "unmarked", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
}

func TestSafety_InstancesOfADefinitionThatIsGoneAreForgotten(t *testing.T) {
	a := newAgent(t)
	definition, group := crd(a, "Relic")
	a.at("1", definition, fmt.Sprintf("apiVersion: %s/v1\nkind: Relic\nmetadata:\n  name: r\nspec:\n  size: 3\n", group), configMap("rest", "1"))
	require.Len(t, a.inventory(), 3)
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	require.NoError(t, a.dynamic.Resource(definitions).Delete(t.Context(), "relics."+group, metav1.DeleteOptions{}))

	testkit.Eventually(t, func() error {
		if _, l := a.at("2", configMap("rest", "1")); len(a.inventory()) != 1 {
			return fmt.Errorf("%w: %v", errNotSo, l.newest)
		}
		return nil
	})
}

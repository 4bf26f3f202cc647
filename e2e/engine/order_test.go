package engine_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
)

// crd makes a CRD and says which group it is in.
func crd(a *agent, kind string) (doc, group string) {
	group = a.namespace + ".example.com"
	plural := strings.ToLower(kind) + "s"
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[1]s.%[2]s
spec:
  group: %[2]s
  scope: Namespaced
  names: {plural: %[1]s, singular: %[3]s, kind: %[4]s}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}}}
`, plural, group, strings.ToLower(kind), kind), group
}

func TestRun_DefinitionAndItsResourceInOneCommit(t *testing.T) {
	a := newAgent(t)
	definition, group := crd(a, "Widget")
	widget := fmt.Sprintf("apiVersion: %s/v1\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: 3\n", group)

	// The resource stands before its definition.
	result, l := a.sync(widget, definition)
	require.Zero(t, result.Failed, "%+v", l.newest)
	require.Equal(t, gitops.ActionCreated, l.get("Widget/w").Action)
	require.Equal(t, gitops.ActionCreated, l.get("CustomResourceDefinition/widgets."+group).Action)
	gvr := schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}
	got, err := a.dynamic.Resource(gvr).Namespace(a.namespace).Get(t.Context(), "w", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, int64(3), got.Object["spec"].(map[string]any)["size"])

	a.requests.reset()
	_, l = a.sync(widget, definition)
	require.Equal(t, gitops.ActionUnchanged, l.get("Widget/w").Action)
	require.Zero(t, a.requests.writes.Load()+a.requests.reads.Load())

	// Both leave the repository: the resource goes first, and both are gone.
	_, l = a.sync(configMap("rest", "1"))
	require.Contains(t, l.removed, "Widget/w")
}

func TestRun_KindThatIsNotServedFailsAlone(t *testing.T) {
	a := newAgent(t)
	unknown := "apiVersion: nowhere.example.com/v1\nkind: Gadget\nmetadata:\n  name: g\n"

	result, l := a.sync(unknown, configMap("fine", "1"))
	require.Equal(t, 1, result.Failed)
	require.Equal(t, gitops.ActionFailed, l.get("Gadget/g").Action)
	require.Equal(t, `no matches for kind "Gadget" in version "nowhere.example.com/v1": is its CRD missing?`,
		l.get("Gadget/g").Message)
	require.Equal(t, gitops.ActionCreated, l.get("ConfigMap/fine").Action)
}

func TestRun_NamespaceOfTheSetComesFirst(t *testing.T) {
	a := newAgent(t)
	other := a.namespace + "-other"
	inOther := strings.Replace(configMap("inside", "1"), "name: inside", "name: inside\n  namespace: "+other, 1)

	result, l := a.sync(inOther, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+other+"\n  namespace: ignored\n")
	require.Zero(t, result.Failed, "%+v", l.newest)
	_, err := a.client.CoreV1().ConfigMaps(other).Get(t.Context(), "inside", metav1.GetOptions{})
	require.NoError(t, err)
	require.Empty(t, l.get("Namespace/"+other).ID.Namespace)
}

func TestRun_BadObjectFailsAloneWithTheServersWords(t *testing.T) {
	a := newAgent(t)
	bad := "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports:\n  - port: 99999999\n"
	nowhere := strings.Replace(configMap("lost", "1"), "name: lost", "name: lost\n  namespace: no-such-namespace", 1)

	result, l := a.sync(bad, nowhere, configMap("good", "1"))
	require.Equal(t, 2, result.Failed)
	require.Contains(t, l.get("Service/bad").Message, "99999999")
	require.Contains(t, l.get("ConfigMap/lost").Message, `namespaces "no-such-namespace" not found`)
	require.Equal(t, gitops.ActionCreated, l.get("ConfigMap/good").Action)
}

func TestRun_DependsOnIsKept(t *testing.T) {
	a := newAgent(t)
	second := strings.Replace(configMap("second", "1"), "name: second",
		"name: second\n  annotations:\n    config.kubernetes.io/depends-on: /namespaces/"+a.namespace+"/Service/first", 1)
	first := "apiVersion: v1\nkind: Service\nmetadata:\n  name: first\nspec:\n  ports:\n  - port: 80\n"

	result, l := a.sync(second, first)
	require.Zero(t, result.Failed, "%+v", l.newest)
	service, err := a.client.CoreV1().Services(a.namespace).Get(t.Context(), "first", metav1.GetOptions{})
	require.NoError(t, err)
	cm, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "second", metav1.GetOptions{})
	require.NoError(t, err)
	before, err := strconv.ParseUint(service.ResourceVersion, 10, 64)
	require.NoError(t, err)
	after, err := strconv.ParseUint(cm.ResourceVersion, 10, 64)
	require.NoError(t, err)
	require.Less(t, before, after)
}

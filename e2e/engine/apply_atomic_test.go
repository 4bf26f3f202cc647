package engine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/gitops"
)

func TestRun_AtomicCommitIsAppliedAsAWholeOrNotAtAll(t *testing.T) {
	a := newAgent(t)
	a.project.Atomic = true
	result, l := a.sync(configMap("change", "1"), configMap("leave", "1"))
	require.Zero(t, result.Failed, "%+v", l.newest)

	bad := "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports:\n  - port: %s\n"
	result, l = a.sync(configMap("change", "2"), configMap("new", "1"), fmt.Sprintf(bad, "99999999"))
	require.Equal(t, 3, result.Failed)
	require.Equal(t, gitops.ActionFailed, l.get("Service/bad").Action)
	require.Contains(t, l.get("Service/bad").Message, "99999999")
	require.Equal(t, "held back: atomic, and 1 object was refused", l.get("ConfigMap/new").Message)
	require.Equal(t, "1", a.data("change")["key"])
	require.Equal(t, "1", a.data("leave")["key"])
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "new", metav1.GetOptions{})
	require.Error(t, err)
	require.Len(t, a.inventory(), 2)

	result, l = a.sync(configMap("change", "2"), configMap("new", "1"), fmt.Sprintf(bad, "80"))
	require.Zero(t, result.Failed, "%+v", l.newest)
	require.Equal(t, "2", a.data("change")["key"])
	require.Contains(t, l.removed, "ConfigMap/leave")
}

func TestRun_AtomicCommitWithItsOwnNamespaceAndDefinition(t *testing.T) {
	a := newAgent(t)
	a.project.Atomic = true
	definition, group := crd(a, "Atom")
	atom := fmt.Sprintf("apiVersion: %s/v1\nkind: Atom\nmetadata:\n  name: at\nspec:\n  size: 3\n", group)
	home := a.namespace + "-home"
	inside := strings.Replace(configMap("inside", "1"), "name: inside", "name: inside\n  namespace: "+home, 1)

	result, l := a.sync(atom, inside, definition, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+home+"\n")
	require.Zero(t, result.Failed, "%+v", l.newest)
	require.Equal(t, gitops.ActionCreated, l.get("Atom/at").Action)
	require.Equal(t, gitops.ActionCreated, l.get("ConfigMap/inside").Action)

	lost := strings.Replace(configMap("lost", "1"), "name: lost", "name: lost\n  namespace: no-such-namespace", 1)
	result, l = a.sync(lost, configMap("fine", "1"))
	require.Equal(t, 2, result.Failed)
	require.Contains(t, l.get("ConfigMap/lost").Message, `namespaces "no-such-namespace" not found`)
	require.NotEmpty(t, result.HeldBack)
}

package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/cli-utils/pkg/apply"
	"sigs.k8s.io/cli-utils/pkg/apply/event"
	"sigs.k8s.io/cli-utils/pkg/common"
	cliinventory "sigs.k8s.io/cli-utils/pkg/inventory"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

func TestInventory_SecondWriterLosesAndRecovers(t *testing.T) {
	a := newAgent(t)
	a.sync(configMap("both", "1"))
	// Another process that believes to lead, too, with the inventory as it is now.
	b := *a
	b.start(server)
	require.NotSame(t, a.cluster, b.cluster)
	b.sync(configMap("both", "1"))

	a.sync(configMap("both", "1"), configMap("a", "1"))
	_, err := gitops.Run(t.Context(), b.cluster, b.project, desired(t, configMap("both", "1"), configMap("b", "1")), newLog())
	require.ErrorIs(t, err, inventory.ErrConflict)
	_, err = a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "b", metav1.GetOptions{})
	require.Error(t, err, "what could not be recorded is not applied")

	// It loads anew, and knows what the other has made: nothing is lost.
	inv, err := b.cluster.Load(t.Context(), b.project.Key)
	require.NoError(t, err)
	require.Equal(t, 2, inv.Len())
	b.sees("a") // what it has not heard of yet stays, for a later run
	_, l := b.sync(configMap("both", "1"), configMap("b", "1"))
	require.Equal(t, gitops.ActionPruned, l.get("ConfigMap/a").Action)
	require.Len(t, a.inventory(), 2)
	_, err = gitops.Run(t.Context(), a.cluster, a.project, desired(t, configMap("both", "2")), newLog())
	require.ErrorIs(t, err, inventory.ErrConflict)
	a.sync(configMap("both", "2"))
	require.Equal(t, map[string]string{"key": "2"}, a.data("both"))
	require.Len(t, a.inventory(), 1)
}

// stockApply applies documents with the applier of cli-utils.
func (a *agent) stockApply(name string, yamls ...string) {
	a.t.Helper()
	flags := genericclioptions.NewConfigFlags(false)
	flags.APIServer, flags.BearerToken, flags.CAFile = &server.Host, &server.BearerToken, &server.CAFile
	flags.Namespace = &a.namespace
	factory := cmdutil.NewFactory(flags)
	client, err := cliinventory.ClusterClientFactory{StatusPolicy: cliinventory.StatusPolicyAll}.NewClient(factory)
	require.NoError(a.t, err)
	applier, err := apply.NewApplierBuilder().WithFactory(factory).WithInventoryClient(client).Build()
	require.NoError(a.t, err)

	var objects []*unstructured.Unstructured
	for _, doc := range strings.Split(strings.Join(yamls, "\n---\n"), "\n---\n") {
		u := &unstructured.Unstructured{}
		require.NoError(a.t, yaml.Unmarshal([]byte(doc), &u.Object))
		u.SetNamespace(a.namespace)
		objects = append(objects, u)
	}
	home := &unstructured.Unstructured{}
	home.SetAPIVersion("v1")
	home.SetKind("ConfigMap")
	home.SetNamespace(a.namespace)
	home.SetName(name)
	home.SetLabels(map[string]string{inventory.Label: a.project.Key})
	options := apply.ApplierOptions{ServerSideOptions: common.ServerSideOptions{
		ServerSideApply: true, ForceConflicts: true, FieldManager: "stock",
	}}
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	for e := range applier.Run(ctx, cliinventory.WrapInventoryInfoObj(home), objects, options) {
		if e.Type == event.ErrorType {
			require.NoError(a.t, e.ErrorEvent.Err)
		}
		if e.Type == event.ApplyType {
			require.NotEqual(a.t, event.ApplyFailed, e.ApplyEvent.Status, "%v", e.ApplyEvent.Error)
		}
	}
}

func TestInventory_OfTheStockApplierIsTakenOver(t *testing.T) {
	a := newAgent(t)
	a.stockApply("inventory-of-old", configMap("stays", "1"), configMap("leaves", "1"), deploymentOf("app"))
	require.Len(t, a.inventory(), 3)

	result, l := a.sync(configMap("stays", "2"), deploymentOf("app"))
	require.Zero(t, result.Failed)
	require.Equal(t, gitops.ActionConfigured, l.get("ConfigMap/stays").Action)
	require.Equal(t, map[string]string{"key": "2"}, a.data("stays"))
	require.Equal(t, gitops.ActionPruned, l.get("ConfigMap/leaves").Action)
	require.ElementsMatch(t, []string{a.namespace + "_stays__ConfigMap", a.namespace + "_app_apps_Deployment"}, a.inventory())
	list, err := a.client.CoreV1().ConfigMaps(a.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: inventory.Label + "=" + a.project.Key})
	require.NoError(t, err)
	require.Len(t, list.Items, 1, "taken over, not copied")

	// And the other way round: what we wrote is an inventory to the stock applier.
	a.stockApply(list.Items[0].Name, configMap("stays", "3"))
	require.Equal(t, map[string]string{"key": "3"}, a.data("stays"))
	require.Equal(t, []string{a.namespace + "_stays__ConfigMap"}, a.inventory())
}

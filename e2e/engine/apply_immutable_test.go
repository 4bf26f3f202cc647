package engine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
)

// pod is a template that nobody can schedule here.
const pod = `
    metadata: {labels: {app: %[1]s}}
    spec:
      restartPolicy: %[2]s
      containers: [{name: c, image: example.com/c}]
`

func TestRun_ImmutableFieldIsNamedAndRecreatedOnDemand(t *testing.T) {
	a, whole := newAgent(t), t
	a.project.Prune = false // a row's object is not the next one's business
	for _, row := range []struct {
		name, resource, group, doc, first, second, field string
	}{
		{
			name: "the selector of a Deployment", group: "apps", resource: "deployments", field: "spec.selector", first: "a", second: "b",
			doc: "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: deploy\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: %[1]s}}\n  template:" +
				strings.ReplaceAll(pod, "%[2]s", "Always"),
		},
		{
			name: "the template of a Job", group: "batch", resource: "jobs", field: "spec.template", first: "a", second: "b",
			doc: "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: job\nspec:\n  suspend: true\n  template:" +
				strings.ReplaceAll(strings.ReplaceAll(pod, "%[2]s", "Never"), "example.com/c", "example.com/%[1]s"),
		},
		{
			name: "the cluster IP of a Service", resource: "services", field: "spec.clusterIPs[0]", first: "10.96.77.201", second: "10.96.77.202",
			doc: "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc\nspec:\n  clusterIP: %[1]s\n  ports: [{port: 80}]\n",
		},
		{
			name: "the storage class of a PersistentVolumeClaim", resource: "persistentvolumeclaims", field: "spec", first: "one", second: "two",
			doc: "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: claim\nspec:\n  storageClassName: %[1]s\n" +
				"  accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n",
		},
		{
			name: "the data of an immutable Secret", resource: "secrets", field: "data", first: "Zmlyc3Q=", second: "c2Vjb25k",
			doc: "apiVersion: v1\nkind: Secret\nmetadata:\n  name: secret\nimmutable: true\ndata:\n  key: %[1]s\n",
		},
		{
			name: "the data of an immutable ConfigMap", resource: "configmaps", field: "data", first: "1", second: "2",
			doc: "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cm\nimmutable: true\ndata:\n  key: %[1]q\n",
		},
		{
			name: "the service of a StatefulSet", group: "apps", resource: "statefulsets", field: "spec", first: "one", second: "two",
			doc: "apiVersion: apps/v1\nkind: StatefulSet\nmetadata:\n  name: set\nspec:\n  replicas: 0\n  serviceName: %[1]s\n" +
				"  selector: {matchLabels: {app: set}}\n  template:" +
				strings.ReplaceAll(strings.ReplaceAll(pod, "%[2]s", "Always"), "%[1]s", "set"),
		},
		{
			name: "the role of a RoleBinding", group: "rbac.authorization.k8s.io", resource: "rolebindings", field: "roleRef", first: "one", second: "two",
			doc: "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: binding\n" +
				"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s}\n",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			first, second := fmt.Sprintf(row.doc, row.first), fmt.Sprintf(row.doc, row.second)
			client := a.dynamic.Resource(schema.GroupVersionResource{Group: row.group, Version: "v1", Resource: row.resource}).Namespace(a.namespace)
			set := desired(t, first)
			id := set.Set.Objects[0].ID
			// An address is the only one of its kind. That it goes is news for the agent's
			// inventory, so it goes when all is over.
			whole.Cleanup(func() {
				require.NoError(whole, client.Delete(context.WithoutCancel(whole.Context()), id.Name, metav1.DeleteOptions{}))
			})
			key := id.GroupKind.Kind + "/" + id.Name

			result, l := a.sync(first)
			require.Zero(t, result.Failed, l.get(key).Message)
			before, err := client.Get(t.Context(), id.Name, metav1.GetOptions{})
			require.NoError(t, err)

			result, l = a.sync(second)
			require.Equal(t, 1, result.Failed)
			require.Contains(t, l.get(key).Message, row.field)
			require.Contains(t, l.get(key).Message, "cannot be changed: set annotation agent.gitlab.com/on-immutable: recreate on the manifest")

			second = strings.Replace(second, "metadata:\n", "metadata:\n  annotations: {agent.gitlab.com/on-immutable: recreate}\n", 1)
			result, l = a.sync(second)
			require.Zero(t, result.Failed, l.get(key).Message)
			require.Equal(t, gitops.ActionConfigured, l.get(key).Action)
			require.Contains(t, l.get(key).Message, "recreated, because "+row.field)
			after, err := client.Get(t.Context(), id.Name, metav1.GetOptions{})
			require.NoError(t, err)
			require.NotEqual(t, before.GetUID(), after.GetUID())

			a.requests.reset()
			_, l = a.sync(second)
			require.Equal(t, gitops.ActionUnchanged, l.get(key).Action)
			require.Zero(t, a.requests.writes.Load())
		})
	}
}

func TestRun_WhatIsAlsoWrongOtherwiseIsNotDeleted(t *testing.T) {
	a := newAgent(t)
	doc := "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc\n  annotations: {agent.gitlab.com/on-immutable: recreate}\n" +
		"spec:\n  clusterIP: %s\n  ports: [{port: %d}]\n"
	result, _ := a.sync(fmt.Sprintf(doc, "10.96.77.203", 80))
	require.Zero(t, result.Failed)
	t.Cleanup(func() {
		require.NoError(t, a.client.CoreV1().Services(a.namespace).Delete(context.WithoutCancel(t.Context()), "svc", metav1.DeleteOptions{}))
	})
	before, err := a.client.CoreV1().Services(a.namespace).Get(t.Context(), "svc", metav1.GetOptions{})
	require.NoError(t, err)

	result, l := a.sync(fmt.Sprintf(doc, "10.96.77.204", 99999999))
	require.Equal(t, 1, result.Failed)
	require.Contains(t, l.get("Service/svc").Message, "99999999")
	after, err := a.client.CoreV1().Services(a.namespace).Get(t.Context(), "svc", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, before.UID, after.UID, "it could not have been created anew")
}

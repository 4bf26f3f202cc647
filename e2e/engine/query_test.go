package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/query"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestQuery_TablesAreTheAPIServersOwn(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	a.configMap("one", map[string]string{"a": "1", "b": "2"})
	a.configMap("two", nil)
	replicas := int32(2)
	_, err := a.client.AppsV1().Deployments(a.namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	for _, test := range []struct{ group, resource, path string }{
		{"", "configmaps", "/api/v1/namespaces/" + a.namespace + "/configmaps?fieldSelector=metadata.name!=kube-root-ca.crt"},
		{"apps", "deployments", "/apis/apps/v1/namespaces/" + a.namespace + "/deployments"},
	} {
		path, selector, _ := strings.Cut(test.path, "?fieldSelector=")
		testkit.Eventually(t, func() error {
			got, err := a.list(&clusterstate.ListRequest{Query: a.of(test.group, test.resource, clusterstate.Shape_SHAPE_TABLE)})
			if err != nil {
				return err
			}
			want := a.serversTable(path)
			if selector != "" {
				want.Rows = slices.DeleteFunc(want.Rows, func(r metav1.TableRow) bool { return fmt.Sprint(r.Cells[0]) == "kube-root-ca.crt" })
			}
			if len(got.GetItems()) != len(want.Rows) || fmt.Sprint(want.Rows[0].Cells[:2]) != fmt.Sprint(got.GetItems()[0].GetCells()[:2]) {
				return errors.New("it is not up to date yet")
			}
			a.same(want, got)
			return nil
		})
	}
}

func TestQuery_ObjectsAreWhole(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	a.configMap("one", map[string]string{"key": "value", "other": "<&>\u2028"})
	want, err := a.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(a.namespace).
		Get(t.Context(), "one", metav1.GetOptions{})
	require.NoError(t, err)
	want.SetManagedFields(nil)
	got, err := a.query.Get(t.Context(), &clusterstate.GetRequest{Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: a.namespace, Name: "one"})
	require.NoError(t, err)
	text, err := want.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, string(text), string(got.GetItem().GetJson()))
	require.Equal(t, string(want.GetUID()), got.GetItem().GetUid())
	require.Equal(t, want.GetCreationTimestamp().Unix(), got.GetItem().GetCreated())
	require.Equal(t, []any{"v1", "ConfigMap", true, false},
		[]any{got.GetSource().GetVersion(), got.GetSource().GetKind(), got.GetSource().GetNamespaced(), got.GetSource().GetRedacted()})
	require.WithinDuration(t, time.Now(), got.GetSource().GetCurrentAt().AsTime(), time.Minute)
	require.NotEmpty(t, got.GetSource().GetResourceVersion())

	meta, err := a.query.Get(t.Context(), &clusterstate.GetRequest{
		Resource: &clusterstate.Resource{Resource: "configmaps"}, Namespace: a.namespace, Name: "one", Shape: clusterstate.Shape_SHAPE_METADATA,
	})
	require.NoError(t, err)
	delete(want.Object, "data")
	text, err = want.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, string(text), string(meta.GetItem().GetJson()))

	a.configMap("two", map[string]string{"key": "other"})
	q := a.of("", "configmaps", clusterstate.Shape_SHAPE_OBJECT)
	a.eventually(&clusterstate.ListRequest{Query: q}, has("one", "two"))
	q.FieldSelector = "data.key=other"
	a.eventually(&clusterstate.ListRequest{Query: q}, has("two"))
	q.Shape = clusterstate.Shape_SHAPE_TABLE
	a.eventually(&clusterstate.ListRequest{Query: q}, has("two"))
	q.FieldSelector, q.LabelSelector = "", "name in (one)"
	a.eventually(&clusterstate.ListRequest{Query: q}, has("one"))
}

func TestQuery_PagesOfRealObjects(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("cm-%02d", i))
		a.configMap(want[i], nil)
	}
	req := &clusterstate.ListRequest{Query: a.of("", "configmaps", clusterstate.Shape_SHAPE_METADATA)}
	a.eventually(req, has(want...))
	var got []string
	for req.Limit = 10; ; {
		page, err := a.list(req)
		require.NoError(t, err)
		for _, it := range page.GetItems() {
			got = append(got, it.GetName())
		}
		require.EqualValues(t, len(want)-len(got), page.GetRemaining())
		if req.Continue = page.GetContinue(); req.GetContinue() == "" {
			break
		}
	}
	require.Equal(t, want, got)
}

func TestQuery_SecretsHaveNoValuesUnlessConfigured(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	_, err := a.client.CoreV1().Secrets(a.namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":{"password":"aHVudGVyMg=="}}`}},
		StringData: map[string]string{"password": "hunter2"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	const encoded = "aHVudGVyMg=="
	q := a.of("", "secrets", clusterstate.Shape_SHAPE_OBJECT)
	w := a.watch(q, "")
	first := w.next()
	require.True(t, first.GetSource().GetRedacted())
	require.Len(t, first.GetEvents(), 1)
	text := string(first.GetEvents()[0].GetItem().GetJson())
	require.NotContains(t, text, encoded)
	require.Contains(t, text, "password", "which values there are is shown")
	require.NoError(t, json.Unmarshal([]byte(text), &corev1.Secret{}))
	for _, shape := range []clusterstate.Shape{clusterstate.Shape_SHAPE_METADATA, clusterstate.Shape_SHAPE_TABLE} {
		got, err := a.list(&clusterstate.ListRequest{Query: a.of("", "secrets", shape)})
		require.NoError(t, err)
		require.NotContains(t, got.String(), encoded)
	}

	a.cache.Configure(cache.Settings{SecretValues: true})
	m := w.next()
	require.True(t, m.GetReset_(), "what was told is not so any more")
	require.False(t, m.GetSource().GetRedacted())
	require.Contains(t, string(m.GetEvents()[0].GetItem().GetJson()), encoded)
	a.cache.Configure(cache.Settings{})
	m = w.next()
	require.True(t, m.GetReset_())
	require.NotContains(t, string(m.GetEvents()[0].GetItem().GetJson()), encoded)
}

const (
	added    = clusterstate.EventType_EVENT_TYPE_ADDED
	modified = clusterstate.EventType_EVENT_TYPE_MODIFIED
	gone     = clusterstate.EventType_EVENT_TYPE_DELETED
)

func TestQuery_WatchFollowsChangesAndGoesOnByCursor(t *testing.T) {
	t.Parallel()
	for _, shape := range []clusterstate.Shape{clusterstate.Shape_SHAPE_OBJECT, clusterstate.Shape_SHAPE_METADATA, clusterstate.Shape_SHAPE_TABLE} {
		t.Run(shape.String(), func(t *testing.T) {
			t.Parallel()
			a := newAsker(t, server)
			q := a.of("", "configmaps", shape)
			w := a.watch(q, "")
			m := w.next()
			require.True(t, m.GetReset_() && m.GetSynced(), m)
			a.configMap("one", nil)
			item := w.until(added, "one")
			require.Equal(t, shape == clusterstate.Shape_SHAPE_TABLE, len(item.GetCells()) > 0)
			require.Equal(t, shape != clusterstate.Shape_SHAPE_TABLE, len(item.GetJson()) > 0)
			a.configMap("one", map[string]string{"key": "value"})
			w.until(modified, "one")
			require.Empty(t, w.left)
			w.stop()

			a.configMap("two", nil)
			require.NoError(t, a.client.CoreV1().ConfigMaps(a.namespace).Delete(t.Context(), "one", metav1.DeleteOptions{}))
			w = a.watch(q, w.cursor)
			w.until(added, "two")
			item = w.until(gone, "one")
			require.Empty(t, item.GetJson())
			require.NotEmpty(t, item.GetUid())
		})
	}
}

func TestQuery_WatchOfATableByAFieldThatItDoesNotHave(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	a.configMap("one", map[string]string{"state": "on"})
	q := a.of("", "configmaps", clusterstate.Shape_SHAPE_TABLE)
	q.FieldSelector = "data.state=on"
	w := a.watch(q, "")
	item := w.until(added, "one")
	require.Equal(t, []string{"one", "1"}, item.GetCells()[:2])
	a.configMap("two", map[string]string{"state": "off"})
	a.configMap("one", map[string]string{"state": "off"})
	w.until(gone, "one")
	a.configMap("two", map[string]string{"state": "on", "more": "yes"})
	testkit.Eventually(t, func() error {
		got, err := a.list(&clusterstate.ListRequest{Query: q})
		if err != nil {
			return err
		}
		return has("two")(got)
	})
	w.until(added, "two")
}

func TestQuery_WhatMayNotBeReadSaysSo(t *testing.T) {
	t.Parallel()
	admin, err := kubernetes.NewForConfig(server)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		verbs []string
		code  codes.Code
		want  string
	}{
		"neither verb": {nil, codes.PermissionDenied, `cannot list resource "configmaps"`},
		"no watch":     {[]string{"get", "list"}, codes.PermissionDenied, `cannot watch resource "configmaps"`},
		"both verbs":   {[]string{"list", "watch"}, codes.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			user := "limited-" + strings.ReplaceAll(name, " ", "-")
			if test.verbs != nil {
				t.Cleanup(func() {
					ctx := context.WithoutCancel(t.Context())
					require.NoError(t, admin.RbacV1().ClusterRoleBindings().Delete(ctx, user, metav1.DeleteOptions{}))
					require.NoError(t, admin.RbacV1().ClusterRoles().Delete(ctx, user, metav1.DeleteOptions{}))
				})
				_, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
					ObjectMeta: metav1.ObjectMeta{Name: user},
					Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: test.verbs}},
				}, metav1.CreateOptions{})
				require.NoError(t, err)
				_, err = admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
					ObjectMeta: metav1.ObjectMeta{Name: user},
					RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: user},
					Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}},
				}, metav1.CreateOptions{})
				require.NoError(t, err)
			}
			rc := rest.CopyConfig(server)
			rc.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
			a := newAsker(t, rc)
			for _, shape := range []clusterstate.Shape{clusterstate.Shape_SHAPE_OBJECT, clusterstate.Shape_SHAPE_METADATA, clusterstate.Shape_SHAPE_TABLE} {
				ask := func() error {
					_, err := a.list(&clusterstate.ListRequest{Query: a.of("", "configmaps", shape)})
					return err
				}
				if test.code == codes.OK { // RBAC takes a moment to be known
					testkit.Eventually(t, ask)
					continue
				}
				testkit.Eventually(t, func() error {
					err := ask()
					if status.Code(err) != test.code || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "grant it both verbs") {
						return fmt.Errorf("%s: %w", shape, err)
					}
					return nil
				})
			}
		})
	}
}

func TestQuery_WhatIsNotServedSaysSo(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	for _, test := range []struct {
		resource *clusterstate.Resource
		code     codes.Code
	}{
		{&clusterstate.Resource{Resource: "widgets"}, codes.NotFound},
		{&clusterstate.Resource{Group: "nowhere.example.com", Resource: "widgets"}, codes.NotFound},
		{&clusterstate.Resource{Group: "apps", Version: "v1beta7", Resource: "deployments"}, codes.NotFound},
		{&clusterstate.Resource{Group: "authentication.k8s.io", Resource: "tokenreviews"}, codes.InvalidArgument},
	} {
		_, err := a.list(&clusterstate.ListRequest{Query: &clusterstate.Query{Resource: test.resource}})
		require.Equal(t, test.code, status.Code(err), err)
		require.Contains(t, err.Error(), test.resource.GetResource())
	}
}

func TestQuery_WhatIsKnownIsAnsweredWhileTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	rc := rest.CopyConfig(server)
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if away.Load() {
				return nil, syscall.ECONNREFUSED
			}
			return next.RoundTrip(r)
		})
	})
	a := newAsker(t, rc)
	a.configMap("one", nil)
	req := &clusterstate.ListRequest{Query: a.of("", "configmaps", clusterstate.Shape_SHAPE_TABLE)}
	a.eventually(req, has("one"))
	away.Store(true)
	a.eventually(req, has("one"))
	for _, resource := range []*clusterstate.Resource{{Resource: "services"}, {Group: "batch", Resource: "jobs"}} {
		_, err := a.list(&clusterstate.ListRequest{Query: &clusterstate.Query{Resource: resource}})
		require.Equal(t, codes.Unavailable, status.Code(err), err)
		require.ErrorContains(t, err, "nothing is known of them yet")
		require.ErrorContains(t, err, "connection refused")
	}
	away.Store(false)
	for _, resource := range []*clusterstate.Resource{{Resource: "services"}, {Group: "batch", Resource: "jobs"}} {
		testkit.Eventually(t, func() error {
			_, err := a.list(&clusterstate.ListRequest{Query: &clusterstate.Query{Resource: resource}})
			return err
		})
	}
}

func TestQuery_CustomResourceComesGoesAndComesInAnotherVersion(t *testing.T) {
	t.Parallel()
	a := newAsker(t, server)
	group := a.namespace + ".example.com"
	crds := a.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	install := func(version string) {
		t.Helper()
		crd := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": "widgets." + group},
			"spec": map[string]any{
				"group": group, "scope": "Namespaced",
				"names": map[string]any{"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
				"versions": []any{map[string]any{
					"name": version, "served": true, "storage": true,
					"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
					"additionalPrinterColumns": []any{
						map[string]any{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
						map[string]any{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
					},
				}},
			},
		}}
		_, err := crds.Create(t.Context(), crd, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	widget := func(version, name string, size int64) {
		t.Helper()
		testkit.Eventually(t, func() error {
			_, err := a.dynamic.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: "widgets"}).Namespace(a.namespace).
				Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": group + "/" + version, "kind": "Widget", "metadata": map[string]any{"name": name},
					"spec": map[string]any{"size": size},
				}}, metav1.CreateOptions{})
			return err
		})
	}
	remove := func() {
		require.NoError(t, crds.Delete(context.WithoutCancel(t.Context()), "widgets."+group, metav1.DeleteOptions{}))
	}
	install("v1")
	widget("v1", "one", 5)
	q := a.of(group, "widgets", clusterstate.Shape_SHAPE_TABLE)
	got := a.eventually(&clusterstate.ListRequest{Query: q}, has("one"))
	a.same(a.serversTable("/apis/"+group+"/v1/namespaces/"+a.namespace+"/widgets"), got)
	require.Equal(t, []string{"one", "5"}, got.GetItems()[0].GetCells()[:2])
	q.FieldSelector = "spec.size=5"
	a.eventually(&clusterstate.ListRequest{Query: q}, has("one"))
	q.FieldSelector = ""
	w := a.watch(q, "")
	require.Equal(t, "v1", w.next().GetSource().GetVersion())

	remove()
	testkit.Eventually(t, func() error {
		_, err := a.list(&clusterstate.ListRequest{Query: q})
		if status.Code(err) != codes.NotFound {
			return fmt.Errorf("it is still answered: %w", err)
		}
		return nil
	})
	for {
		_, err := w.stream.Recv()
		if err != nil {
			require.Equal(t, codes.NotFound, status.Code(err), err)
			break
		}
	}
	testkit.Eventually(t, func() error {
		_, err := crds.Get(t.Context(), "widgets."+group, metav1.GetOptions{})
		if err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
	install("v2")
	defer remove()
	widget("v2", "two", 7)
	got = a.eventually(&clusterstate.ListRequest{Query: q}, has("two"))
	require.Equal(t, "v2", got.GetSource().GetVersion())
}

func TestQuery_WhatIsKeptIsKnownBeforeAnybodyAsks(t *testing.T) {
	t.Parallel()
	requests := &counter{}
	rc := rest.CopyConfig(server)
	rc.Wrap(requests.wrap)
	a := newAsker(t, rc)
	a.keeper.Keep([]query.Kept{
		{Resource: schema.GroupResource{Resource: "configmaps"}, Form: objects.Table},
		{Resource: schema.GroupResource{Group: "apps", Resource: "deployments"}, Form: objects.Whole},
		{Resource: schema.GroupResource{Group: "nowhere.example.com", Resource: "widgets"}, Form: objects.Whole},
	})
	a.configMap("one", nil)
	req := &clusterstate.ListRequest{Query: a.of("", "configmaps", clusterstate.Shape_SHAPE_TABLE)}
	a.eventually(req, has("one"))
	_, err := a.list(&clusterstate.ListRequest{Query: a.of("apps", "deployments", clusterstate.Shape_SHAPE_OBJECT)})
	require.NoError(t, err)
	a.configMap("two", nil)
	a.eventually(req, has("one", "two"))
}

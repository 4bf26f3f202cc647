package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/agentk/cache"
	"github.com/kas-agentk/kas/agentk/cluster"
	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/testkit"
)

// viewer is a cache that questions are asked of, with a count of the watches that it begins
// with. A busy API server ends watches, which then go on where they were.
type viewer struct {
	t     *testing.T
	cache *cache.Cache

	mu    sync.Mutex
	begun map[string]int
}

func newViewer(t *testing.T, rc *rest.Config) *viewer {
	t.Helper()
	v := &viewer{t: t, begun: map[string]int{}}
	counted := rest.CopyConfig(rc)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("sendInitialEvents") != "" {
				v.mu.Lock()
				v.begun[r.URL.Path]++
				v.mu.Unlock()
			}
			return next.RoundTrip(r)
		})
	})
	var err error
	v.cache, err = cache.New(cache.Config{RESTConfig: counted, FieldManager: cluster.FieldManager, Log: testkit.Logger(t)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var g errgroup.Group
	g.Go(func() error { return v.cache.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Errorf("cache: %v", err)
		}
	})
	return v
}

func (v *viewer) watchesOf(path string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.begun[path]
}

// view opens a View until the test ends.
func (v *viewer) view(mapping *meta.RESTMapping, form objects.Form) objects.View {
	v.t.Helper()
	view, err := v.cache.View(v.t.Context(), mapping, form)
	require.NoError(v.t, err)
	v.t.Cleanup(view.Release)
	return view
}

// mappingOf a namespaced resource, whose kind does not matter.
func mappingOf(group, version, resource, kind string) *meta.RESTMapping {
	gv := schema.GroupVersion{Group: group, Version: version}
	return &meta.RESTMapping{
		Resource: gv.WithResource(resource), GroupVersionKind: gv.WithKind(kind), Scope: meta.RESTScopeNamespace,
	}
}

var (
	configMapsMapping = mappingOf("", "v1", "configmaps", "ConfigMap")
	secretsMapping    = mappingOf("", "v1", "secrets", "Secret")
	deployments       = mappingOf("apps", "v1", "deployments", "Deployment")
)

const columnsOfWidgets = `    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Colour, type: string, jsonPath: .metadata.labels.colour, priority: 1}
    - {name: Born, type: date, jsonPath: .metadata.creationTimestamp}
`

// widgets creates a kind with columns of its own and returns its mapping.
func (a *agent) widgets(columns string) (mapping *meta.RESTMapping, definition string) {
	definition, group := crd(a, "Widget")
	at := strings.Index(definition, "    schema:")
	require.Positive(a.t, at)
	definition = definition[:at] + columns + definition[at:]
	result, l := a.sync(definition)
	require.Zero(a.t, result.Failed, "%+v", l.newest)
	mapping = mappingOf(group, "v1", "widgets", "Widget")
	testkit.Eventually(a.t, func() error { // established is not yet served
		_, err := a.dynamic.Resource(mapping.Resource).List(a.t.Context(), metav1.ListOptions{})
		return err
	})
	return mapping, definition
}

// tableOf asks the API server itself, as kubectl does.
func (a *agent) tableOf(mapping *meta.RESTMapping) *metav1.Table {
	a.t.Helper()
	path := "/apis/" + mapping.Resource.GroupVersion().String()
	if mapping.Resource.Group == "" {
		path = "/api/v1"
	}
	data, err := a.client.CoreV1().RESTClient().Get().AbsPath(path, "namespaces", a.namespace, mapping.Resource.Resource).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(a.t.Context()).Raw()
	require.NoError(a.t, err)
	table := &metav1.Table{}
	require.NoError(a.t, json.Unmarshal(data, table))
	return table
}

// readsAs says how a View differs from the API server's own table.
func (a *agent) readsAs(view objects.View, want *metav1.Table) error {
	columns := view.Columns()
	if len(columns) != len(want.ColumnDefinitions) {
		return fmt.Errorf("%w: columns %v", errNotSo, columns)
	}
	list, _ := view.List(a.namespace)
	if len(list) != len(want.Rows) {
		return fmt.Errorf("%w: %d rows, not %d", errNotSo, len(list), len(want.Rows))
	}
	for i, row := range want.Rows {
		for j, d := range want.ColumnDefinitions {
			text := ""
			if row.Cells[j] != nil && !columns[j].Age {
				text = fmt.Sprint(row.Cells[j])
			}
			if columns[j].Name != d.Name || columns[j].Priority != d.Priority || list[i].Cells[j] != text {
				return fmt.Errorf("%w: %s of %s is %q, not %q", errNotSo, d.Name, list[i].Name, list[i].Cells[j], text)
			}
		}
	}
	return nil
}

func ages(columns []objects.Column) []string {
	var ages []string
	for _, c := range columns {
		if c.Age {
			ages = append(ages, c.Name)
		}
	}
	return ages
}

func TestViews_TableReadsAsTheAPIServersOwn(t *testing.T) {
	a := newAgent(t)
	widgets, _ := a.widgets(columnsOfWidgets)
	bare, group := crd(a, "Bare")
	widget := func(name, colour string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: Widget\nmetadata:\n  name: %s\n  labels: {%s}\nspec: {size: 3}\n",
			widgets.Resource.GroupVersion(), name, colour)
	}
	all := func(replicas int) []string {
		return []string{
			configMap("one", "1"), configMap("two", "2"), bare, widget("w", ""), widget("x", "colour: red"),
			fmt.Sprintf("apiVersion: %s/v1\nkind: Bare\nmetadata:\n  name: b\nspec:\n  size: 1\n", group),
			fmt.Sprintf("apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\nspec:\n  replicas: %d\n  selector: {matchLabels: {app: d}}\n"+
				"  template:\n    metadata: {labels: {app: d}}\n    spec: {containers: [{name: c, image: i}]}\n", replicas),
		}
	}
	definition, _ := crd(a, "Widget")
	at := strings.Index(definition, "    schema:")
	definition = definition[:at] + columnsOfWidgets + definition[at:]
	result, l := a.sync(append(all(0), definition)...)
	require.Zero(t, result.Failed, "%+v", l.newest)
	v := newViewer(t, server)
	resources := map[*meta.RESTMapping][]string{
		configMapsMapping: {"Age"}, deployments: {"Age"}, widgets: {"Born"},
		mappingOf(group, "v1", "bares", "Bare"):                   {"Age"},
		mappingOf("coordination.k8s.io", "v1", "leases", "Lease"): {"Age"},
	}
	views := map[*meta.RESTMapping]objects.View{}
	for mapping, age := range resources {
		view := v.view(mapping, objects.Table)
		views[mapping] = view
		require.Equal(t, age, ages(view.Columns()), "%v", view.Columns())
		testkit.Eventually(t, func() error { return a.readsAs(view, a.tableOf(mapping)) })
	}
	row := views[widgets].Get(a.namespace, "w")
	require.Equal(t, []string{"w", "3", "", ""}, row.Cells)
	require.WithinDuration(t, time.Now(), row.Created, 5*time.Minute)
	require.NotEmpty(t, row.UID)

	// Changes come as well.
	a.sync(append(all(2), definition)...)
	require.NoError(t, a.client.CoreV1().ConfigMaps(a.namespace).Delete(t.Context(), "two", metav1.DeleteOptions{}))
	for mapping, view := range views {
		testkit.Eventually(t, func() error { return a.readsAs(view, a.tableOf(mapping)) })
	}
	testkit.Eventually(t, func() error {
		if cells := views[deployments].Get(a.namespace, "d").Cells; cells[1] != "0/2" {
			return fmt.Errorf("%w: %q", errNotSo, cells)
		}
		return nil
	})
	for mapping := range views {
		path := "/apis/" + mapping.Resource.GroupVersion().String() + "/" + mapping.Resource.Resource
		if mapping.Resource.Group == "" {
			path = "/api/v1/" + mapping.Resource.Resource
		}
		require.Equal(t, 1, v.watchesOf(path), "a list is streamed, and nothing begins anew: %s", path)
	}
}

func TestViews_TableWithNewColumnsBeginsAnew(t *testing.T) {
	a := newAgent(t)
	widgets, definition := a.widgets(columnsOfWidgets)
	v := newViewer(t, server)
	view := v.view(widgets, objects.Table)
	a.sync(strings.Replace(definition, "name: Colour", "name: Hue", 1))
	create := func(name string) error {
		_, err := a.dynamic.Resource(widgets.Resource).Namespace(a.namespace).Patch(t.Context(), name, types.ApplyPatchType,
			fmt.Appendf(nil, `{"apiVersion": %q, "kind": "Widget", "metadata": {"name": %q}, "spec": {"size": 1}}`,
				widgets.Resource.GroupVersion(), name), metav1.PatchOptions{FieldManager: "somebody"})
		return err
	}
	n := 0
	testkit.Eventually(t, func() error {
		// The API server takes a moment to learn of columns.
		n++
		require.NoError(t, create(fmt.Sprint("w", n)))
		select {
		case <-view.Ended():
			return nil
		default:
			return errNotSo
		}
	})
	testkit.Eventually(t, func() error {
		again, err := v.cache.View(t.Context(), widgets, objects.Table)
		if err != nil {
			return err
		}
		defer again.Release()
		if again.Columns()[2].Name != "Hue" {
			return fmt.Errorf("%w: %v", errNotSo, again.Columns())
		}
		return a.readsAs(again, a.tableOf(widgets))
	})
}

func TestViews_EngineAndQuestionsShareAnInformer(t *testing.T) {
	v := newViewer(t, server)
	require.Empty(t, v.cache.Ensure(t.Context(), []*meta.RESTMapping{deployments, configMapsMapping}))
	for range 3 {
		v.view(deployments, objects.Whole)
		v.view(deployments, objects.Metadata)
		v.view(configMapsMapping, objects.Metadata)
	}
	require.Equal(t, 1, v.watchesOf("/apis/apps/v1/deployments"))
	require.Equal(t, 1, v.watchesOf("/api/v1/configmaps"))
	v.view(configMapsMapping, objects.Whole)
	v.view(configMapsMapping, objects.Whole)
	require.Equal(t, 2, v.watchesOf("/api/v1/configmaps"), "nothing else keeps their data")
}

func TestViews_SecretsAreRedacted(t *testing.T) {
	a := newAgent(t)
	_, err := a.client.CoreV1().Secrets(a.namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "hunter2"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	v := newViewer(t, server)
	view := v.view(secretsMapping, objects.Whole)
	var secret corev1.Secret
	require.NoError(t, json.Unmarshal(view.Get(a.namespace, "s").JSON, &secret))
	require.Equal(t, map[string][]byte{"password": {}}, secret.Data)
	require.True(t, view.Freshness().Redacted)

	v.cache.Configure(cache.Settings{SecretValues: true})
	<-view.Ended()
	require.NoError(t, json.Unmarshal(v.view(secretsMapping, objects.Whole).Get(a.namespace, "s").JSON, &secret))
	require.Equal(t, "hunter2", string(secret.Data["password"]))
}

// TestViews_NoGapAndNoDuplicateInAStorm follows several forms of a resource through many
// changes, each of which must fit to what was known before.
func TestViews_NoGapAndNoDuplicateInAStorm(t *testing.T) {
	a := newAgent(t)
	v := newViewer(t, server)
	done := make(chan struct{})
	var followers errgroup.Group
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		view := v.view(configMapsMapping, form)
		for range 2 {
			followers.Go(func() error { return a.followThrough(view, done) })
		}
	}
	var writers errgroup.Group
	for w := range 8 {
		writers.Go(func() error { return a.churn(w) })
	}
	require.NoError(t, writers.Wait())
	close(done)
	require.NoError(t, followers.Wait())
}

// churn creates, changes and deletes ConfigMaps.
func (a *agent) churn(writer int) error {
	configMaps := a.client.CoreV1().ConfigMaps(a.namespace)
	for i := range 60 {
		name := fmt.Sprintf("c-%d-%d", writer, i%7)
		_, err := configMaps.Patch(a.t.Context(), name, types.ApplyPatchType,
			[]byte(configMap(name, fmt.Sprint(i))), metav1.PatchOptions{FieldManager: "storm"})
		if err == nil && i%5 == 4 {
			err = configMaps.Delete(a.t.Context(), name, metav1.DeleteOptions{})
		}
		if err != nil {
			return fmt.Errorf("churn %s: %w", name, err)
		}
	}
	return nil
}

// followThrough keeps a copy up to date by changes alone, until it is what the API server
// has once done is closed.
func (a *agent) followThrough(view objects.View, done <-chan struct{}) error {
	known := map[objects.Key]string{}
	list, p := view.List("")
	for _, o := range list {
		known[objects.Key{Namespace: o.Namespace, Name: o.Name}] = o.ResourceVersion
	}
	var deadline <-chan time.Time
	for {
		select {
		case <-view.Changed(p):
		case <-done:
			done, deadline = nil, time.After(testkit.Patience)
		case <-deadline:
			return fmt.Errorf("%w: it never came to be what there is", errNotSo)
		}
		changes, after, ok := view.Since(p)
		if !ok {
			return fmt.Errorf("%w: changes after %v are not known", errNotSo, p)
		}
		for _, c := range changes {
			if err := step(known, c); err != nil {
				return err
			}
		}
		p = after
		if done == nil {
			if same, err := a.isAll(known); same || err != nil {
				return err
			}
		}
	}
}

// step takes a change, which must fit.
func step(known map[objects.Key]string, c objects.Change) error {
	o := c.After
	if o == nil {
		o = c.Before
	}
	key := objects.Key{Namespace: o.Namespace, Name: o.Name}
	version, was := known[key]
	if was != (c.Before != nil) || was && c.Before.ResourceVersion != version {
		return fmt.Errorf("%w: a change of %v from %+v, which is at %q", errNotSo, key, c.Before, version)
	}
	delete(known, key)
	if c.After != nil {
		known[key] = c.After.ResourceVersion
	}
	return nil
}

// isAll compares with what the API server has in the namespace.
func (a *agent) isAll(known map[objects.Key]string) (bool, error) {
	list, err := a.client.CoreV1().ConfigMaps(a.namespace).List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list: %w", err)
	}
	n := 0
	for key := range known {
		if key.Namespace == a.namespace {
			n++
		}
	}
	return n == len(list.Items) && !slices.ContainsFunc(list.Items, func(cm corev1.ConfigMap) bool {
		return known[objects.Key{Namespace: cm.Namespace, Name: cm.Name}] != cm.ResourceVersion
	}), nil
}

func TestViews_WhatMayNotBeReadSaysSo(t *testing.T) {
	a := newAgent(t)
	limited := rest.CopyConfig(server)
	limited.Impersonate = rest.ImpersonationConfig{UserName: a.namespace}
	v := newViewer(t, limited)
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		_, err := v.cache.View(t.Context(), secretsMapping, form)
		require.True(t, apierrors.IsForbidden(err), "%v", err)
		require.ErrorContains(t, err, `cannot list resource "secrets"`)
		_, err = v.cache.View(t.Context(), mappingOf("", "v1", "nonsenses", "Nonsense"), form)
		require.True(t, apierrors.IsForbidden(err), "%v", err)
	}

	// It is granted, and taken away.
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"list", "watch"}}},
	}
	_, err := a.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = a.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: a.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: a.namespace},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: a.namespace}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	testkit.Eventually(t, func() error { return a.may("watch", "secrets") })
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		v.view(secretsMapping, form)
	}
}

func TestViews_EndWhenTheResourceIsNotServedAnyMore(t *testing.T) {
	a := newAgent(t)
	widgets, _ := a.widgets(columnsOfWidgets)
	v := newViewer(t, server)
	var views []objects.View
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		views = append(views, v.view(widgets, form))
	}
	name := "widgets." + widgets.Resource.Group
	require.NoError(t, a.dynamic.Resource(schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	}).Delete(t.Context(), name, metav1.DeleteOptions{}))
	for i, view := range views {
		<-view.Ended()
		testkit.Eventually(t, func() error {
			again, err := v.cache.View(t.Context(), widgets, objects.Form(i+1))
			switch {
			case err == nil:
				again.Release()
				return errNotSo
			case apierrors.IsNotFound(err):
				return nil
			default:
				return errors.Join(errNotSo, err)
			}
		})
	}
}

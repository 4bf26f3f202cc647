package cluster

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// apis serves discovery documents by path, and counts how often.
type apis struct {
	mu    sync.Mutex
	docs  map[string]any
	asked map[string]int
}

func (a *apis) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[r.URL.Path]++
	doc, ok := a.docs[r.URL.Path]
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if status, failed := doc.(int); failed {
		w.WriteHeader(status)
		return
	}
	_ = json.NewEncoder(w).Encode(doc)
}

func serve(t *testing.T, docs map[string]any) (*apis, *resolver) {
	t.Helper()
	a := &apis{docs: docs, asked: map[string]int{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	client, err := discovery.NewDiscoveryClientForConfigAndClient(&rest.Config{Host: server.URL, QPS: -1}, server.Client())
	require.NoError(t, err)
	return a, newResolver(client.RESTClient())
}

func resources(list ...metav1.APIResource) metav1.APIResourceList {
	return metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		APIResources: list,
	}
}

func resource(kind, name string, namespaced bool) metav1.APIResource {
	return metav1.APIResource{Kind: kind, Name: name, Namespaced: namespaced, Verbs: []string{"get", "list", "watch", "patch"}}
}

func TestResolver_AsksOnceForEachGroupAndVersion(t *testing.T) {
	a, r := serve(t, map[string]any{"/apis/apps/v1": resources(
		resource("Deployment", "deployments", true), resource("Deployment", "deployments/status", true))})
	for range 3 {
		m, err := r.resolve(t.Context(), schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
		require.NoError(t, err)
		require.Equal(t, "deployments", m.Resource.Resource)
	}
	require.Equal(t, map[string]int{"/apis/apps/v1": 1}, a.asked)
}

func TestResolver_LooksAgainForAKindThatWasMissing(t *testing.T) {
	a, r := serve(t, map[string]any{"/apis/example.com/v1": resources()})
	widget := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	_, err := r.resolve(t.Context(), widget)
	require.ErrorIs(t, err, gitops.ErrNotServed)

	a.docs["/apis/example.com/v1"] = resources(resource("Widget", "widgets", true))
	_, err = r.resolve(t.Context(), widget)
	require.NoError(t, err)
}

func TestResolver_FindsAVersionWhereNoneIsNamed(t *testing.T) {
	_, r := serve(t, map[string]any{
		"/apis/example.com": metav1.APIGroup{
			TypeMeta:         metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
			Versions:         []metav1.GroupVersionForDiscovery{{Version: "v1beta1"}, {Version: "v1"}},
			PreferredVersion: metav1.GroupVersionForDiscovery{Version: "v1"},
		},
		"/apis/example.com/v1":      resources(resource("New", "news", true)),
		"/apis/example.com/v1beta1": resources(resource("Old", "olds", false)),
	})
	m, err := r.resolve(t.Context(), schema.GroupVersionKind{Group: "example.com", Kind: "Old"})
	require.NoError(t, err)
	require.Equal(t, "v1beta1", m.Resource.Version)
	_, err = r.resolve(t.Context(), schema.GroupVersionKind{Group: "nowhere.example.com", Kind: "Old"})
	require.ErrorIs(t, err, gitops.ErrNotServed)
}

func TestResolver_GroupThatDoesNotAnswerIsNotOneThatIsNotServed(t *testing.T) {
	_, r := serve(t, map[string]any{"/apis/metrics.k8s.io/v1": http.StatusServiceUnavailable})
	_, err := r.resolve(t.Context(), schema.GroupVersionKind{Group: "metrics.k8s.io", Version: "v1", Kind: "PodMetrics"})
	require.Error(t, err)
	require.NotErrorIs(t, err, gitops.ErrNotServed)
	require.NotErrorIs(t, explain(err), gitops.ErrUnavailable, "it fails alone")
	require.True(t, apierrors.IsServiceUnavailable(err))
}

func TestResolver_KindThatCannotBeWatchedSaysSo(t *testing.T) {
	review := resource("TokenReview", "tokenreviews", false)
	review.Verbs = []string{"create"}
	_, r := serve(t, map[string]any{"/apis/authentication.k8s.io/v1": resources(review)})
	for range 2 {
		_, err := r.resolve(t.Context(), schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenReview"})
		require.ErrorIs(t, err, errVerbs)
		require.NotErrorIs(t, explain(err), gitops.ErrUnavailable, "it fails alone")
	}
}

func TestResolver_KindWhoseDefinitionIsBeingDeletedCanStillBeRemoved(t *testing.T) {
	widget := resource("Widget", "widgets", true)
	widget.Verbs = []string{"delete", "deletecollection", "get", "list", "watch"}
	a, r := serve(t, map[string]any{
		"/apis/example.com": metav1.APIGroup{
			TypeMeta:         metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
			PreferredVersion: metav1.GroupVersionForDiscovery{Version: "v1"},
		},
		"/apis/example.com/v1": resources(widget),
	})
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	_, err := r.resolve(t.Context(), gvk)
	require.ErrorIs(t, err, errVerbs, "it cannot be applied")
	gvk.Version = ""
	_, err = r.resolve(t.Context(), gvk)
	require.NoError(t, err)

	a.docs["/apis/example.com/v1"] = resources(resource("Widget", "widgets", true))
	gvk.Version = "v1"
	_, err = r.resolve(t.Context(), gvk)
	require.NoError(t, err, "the definition has come back")
}

func TestResolver_FindsAResourceInTheVersionThatIsPreferred(t *testing.T) {
	a, r := serve(t, map[string]any{
		"/apis/example.com": metav1.APIGroup{
			TypeMeta:         metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
			Versions:         []metav1.GroupVersionForDiscovery{{Version: "v1beta1"}, {Version: "v1"}},
			PreferredVersion: metav1.GroupVersionForDiscovery{Version: "v1"},
		},
		"/apis/example.com/v1":      resources(resource("New", "news", true)),
		"/apis/example.com/v1beta1": resources(resource("New", "news", true), resource("Old", "olds", false)),
	})
	news := schema.GroupVersionResource{Group: "example.com", Version: "v1beta1", Resource: "news"}
	for range 2 {
		m, err := r.resource(t.Context(), news)
		require.NoError(t, err)
		require.Equal(t, "v1beta1", m.Resource.Version, "the one that is named")
	}
	news.Version = ""
	for range 2 {
		m, err := r.resource(t.Context(), news)
		require.NoError(t, err)
		require.Equal(t, "v1", m.Resource.Version, "not the one that happens to be known")
	}
	olds := schema.GroupVersionResource{Group: "example.com", Resource: "olds"}
	for range 2 {
		m, err := r.resource(t.Context(), olds)
		require.NoError(t, err)
		require.Equal(t, "v1beta1", m.Resource.Version)
		require.Equal(t, "Old", m.GroupVersionKind.Kind)
	}
	require.Equal(t, map[string]int{"/apis/example.com": 1, "/apis/example.com/v1": 1, "/apis/example.com/v1beta1": 1}, a.asked)

	delete(a.docs, "/apis/example.com/v1")
	a.docs["/apis/example.com"] = metav1.APIGroup{
		TypeMeta:         metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
		PreferredVersion: metav1.GroupVersionForDiscovery{Version: "v1beta1"},
	}
	r.forgetGroup("example.com")
	m, err := r.resource(t.Context(), news)
	require.NoError(t, err)
	require.Equal(t, "v1beta1", m.Resource.Version)
	_, err = r.resource(t.Context(), schema.GroupVersionResource{Group: "nowhere.example.com", Resource: "olds"})
	require.ErrorIs(t, err, gitops.ErrNotServed)
}

func TestResolver_ResourceThatCannotBeWatchedSaysSo(t *testing.T) {
	statuses := resource("ComponentStatus", "componentstatuses", false)
	statuses.Verbs = []string{"get", "list"}
	widgets := resource("Widget", "widgets", true)
	widgets.Verbs = []string{"list", "watch"}
	_, r := serve(t, map[string]any{"/api/v1": resources(statuses, widgets)})
	_, err := r.resource(t.Context(), schema.GroupVersionResource{Resource: "componentstatuses"})
	require.True(t, apierrors.IsMethodNotSupported(err), err)
	require.ErrorContains(t, err, "watch is not supported")
	_, err = r.resource(t.Context(), schema.GroupVersionResource{Resource: "widgets"})
	require.NoError(t, err, "it need not be possible to change it")
}

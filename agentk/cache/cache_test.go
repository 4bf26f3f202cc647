package cache

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

// What a real API server does with a cache is tested in e2e/engine.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var pods = &meta.RESTMapping{
	Resource:         schema.GroupVersionResource{Version: "v1", Resource: "pods"},
	GroupVersionKind: schema.GroupVersionKind{Version: "v1", Kind: "Pod"},
	Scope:            meta.RESTScopeNamespace,
}

// start runs a cache until the test ends.
func start(t *testing.T, host string, clock *testclock.FakeClock) *Cache {
	t.Helper()
	c, err := New(Config{RESTConfig: &rest.Config{Host: host}, FieldManager: "agentk", Log: testkit.Logger(t), Clock: clock})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(testkit.Patience):
			t.Error("Run goes on after the end of its context")
		}
	})
	return c
}

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func TestCache_APIServerThatIsAwayIsAnErrorAtOnceAndNoHindranceToStop(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	c := start(t, server.URL, testclock.NewFakeClock(time.Now()))
	for range 2 {
		failed := c.Ensure(t.Context(), []*meta.RESTMapping{pods})
		require.Error(t, failed[pods.Resource.GroupResource()])
		require.False(t, isAPIStatus(failed[pods.Resource.GroupResource()]))
	}
}

func TestCache_ResourceThatIsForbiddenSaysSo(t *testing.T) {
	host := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	c := start(t, host, testclock.NewFakeClock(time.Now()))
	failed := c.Ensure(t.Context(), []*meta.RESTMapping{pods})
	require.True(t, apierrors.IsForbidden(failed[pods.Resource.GroupResource()]))
	require.Empty(t, c.resources, "the next one tries again at once")
}

func TestCache_ListThatHangsIsGivenUpAfterAWhile(t *testing.T) {
	host := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	clock := testclock.NewFakeClock(time.Now())
	c := start(t, host, clock)
	result := make(chan map[schema.GroupResource]error, 1)
	services := *pods
	services.Resource.Resource = "services"
	go func() { result <- c.Ensure(t.Context(), []*meta.RESTMapping{pods, &services}) }()
	// Run has a timer, too.
	testkit.Eventually(t, func() error {
		if clock.Waiters() < 2 {
			return context.DeadlineExceeded
		}
		return nil
	})
	clock.Step(defaultSyncTimeout)
	failed := <-result
	require.ErrorIs(t, failed[pods.Resource.GroupResource()], ErrNotSynced)
	require.ErrorIs(t, failed[services.Resource.GroupResource()], ErrNotSynced, "all wait for the same moment")
}

func TestCache_TellsOfAResourceThatIsNotServedAnyMore(t *testing.T) {
	var gone atomic.Bool
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case gone.Load():
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Query().Get("sendInitialEvents") != "":
			w.WriteHeader(http.StatusUnprocessableEntity)
		case r.URL.Query().Get("watch") == "":
			_, _ = w.Write([]byte(`{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
				"items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"}}]}`))
		default: // a watch that ends at once
			gone.Store(true)
		}
	})
	c := start(t, host, testclock.NewFakeClock(time.Now()))
	lost := make(chan schema.GroupResource, 10)
	stop := c.Subscribe(func(gr schema.GroupResource, _, name, _ string) {
		if name == "" {
			lost <- gr
		}
	})
	defer stop()
	require.Empty(t, c.Ensure(t.Context(), []*meta.RESTMapping{pods}))
	require.Equal(t, pods.Resource.GroupResource(), <-lost)
	_, known := c.Get(pods.Resource.GroupResource(), "n", "a")
	require.True(t, known, "until somebody looks anew")
	require.True(t, apierrors.IsNotFound(c.Ensure(t.Context(), []*meta.RESTMapping{pods})[pods.Resource.GroupResource()]))
	require.Empty(t, lost, "it is told once")
}

func TestCache_ForgetsWhatNobodyAsksFor(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	c := start(t, "http://127.0.0.1:0", clock)
	r := c.follow(pods)
	require.NoError(t, c.start(t.Context(), r))
	c.reap(clock.Now().Add(idleAfter))
	require.Len(t, c.resources, 1)
	c.reap(clock.Now().Add(idleAfter + 1))
	require.Empty(t, c.resources)
	<-r.quit
}

func TestCache_KeepsWhatIsHeldHoweverLongNobodyAsks(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	c := start(t, "http://127.0.0.1:0", clock)
	gr := pods.Resource.GroupResource()
	r := c.follow(pods)
	require.NoError(t, c.start(t.Context(), r))
	release := c.Hold([]schema.GroupResource{gr})
	again := c.Hold([]schema.GroupResource{gr})
	release()
	release() // once is enough
	c.reap(clock.Now().Add(idleAfter + 1))
	require.Len(t, c.resources, 1, "somebody waits for its changes")
	again()
	c.reap(clock.Now().Add(idleAfter + 1))
	require.Empty(t, c.resources)
	require.Empty(t, c.holds)
}

func TestProject_KeepsWhatIsNeededAndNoMore(t *testing.T) {
	c := &Cache{cfg: Config{FieldManager: "agentk"}}
	r := &resource{cache: c, mapping: &meta.RESTMapping{
		Resource:         schema.GroupVersionResource{Version: "v1", Resource: "secrets"},
		GroupVersionKind: schema.GroupVersionKind{Version: "v1", Kind: "Secret"},
	}}
	fields := &metav1.FieldsV1{}
	fields.SetRawBytes([]byte(`{"f:data":{"f:b":{},"f:a":{}}}`))
	applied := metav1.Unix(1_700_000_000, 0)
	om := metav1.ObjectMeta{
		Name: "s", Namespace: "n", UID: "u", ResourceVersion: "7",
		Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "secret", "keep": "this"},
		ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "kubectl", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: fields},
			{Manager: "agentk", Operation: "Apply", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: fields, Time: &applied},
		},
	}
	want := inventory.OwnershipOf(om.ManagedFields, "agentk")
	require.False(t, want.IsZero())

	got, err := r.project(&metav1.PartialObjectMetadata{ObjectMeta: om})
	require.NoError(t, err)
	secret, ok := got.(*item)
	require.True(t, ok)
	require.Equal(t, want, secret.live.Ownership)
	whole := secret.live.Object.Unstructured()
	require.Equal(t, "Secret", whole.GetKind())
	require.Equal(t, map[string]string{"keep": "this"}, whole.GetAnnotations())
	require.Nil(t, whole.GetManagedFields())
	require.Equal(t, "7", secret.live.ResourceVersion)
	again, err := r.project(secret)
	require.NoError(t, err)
	require.Same(t, secret, again)

	// The same by way of JSON.
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": "s", "managedFields": []any{
			map[string]any{"manager": "kubectl", "operation": "Update", "apiVersion": "v1"},
			map[string]any{"manager": "agentk", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
				"time": "2023-11-14T22:13:20Z", "fieldsV1": map[string]any{"f:data": map[string]any{"f:a": map[string]any{}, "f:b": map[string]any{}}}},
		}},
	}}
	got, err = r.project(u)
	require.NoError(t, err)
	require.Equal(t, want, got.(*item).live.Ownership)
}

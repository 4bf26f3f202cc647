package cache

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/testkit"
)

var configMaps = &meta.RESTMapping{
	Resource:         schema.GroupVersionResource{Version: "v1", Resource: "configmaps"},
	GroupVersionKind: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"},
	Scope:            meta.RESTScopeNamespace,
}

// api is an API server with one namespaced resource, whatever its path, that does not
// know how to stream a list.
type api struct {
	// status of all answers but 200; zero: none.
	status atomic.Int32
	// lists and watches counts them.
	lists, watches atomic.Int32
	// list is the answer to one.
	list func(r *http.Request) string
	// events are sent to whoever watches.
	events chan string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case a.status.Load() != 0:
		w.WriteHeader(int(a.status.Load()))
	case r.URL.Query().Get("sendInitialEvents") != "":
		w.WriteHeader(http.StatusUnprocessableEntity)
	case r.URL.Query().Get("watch") == "":
		a.lists.Add(1)
		_, _ = w.Write([]byte(a.list(r)))
	default:
		a.watches.Add(1)
		a.follow(w, r)
	}
}

// follow sends events until one is empty.
func (a *api) follow(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case event := <-a.events:
			if event == "" {
				return
			}
			_, _ = w.Write([]byte(event))
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// listen serves at an address until stop is called.
func (a *api) listen(t *testing.T, address string) (host string, stop func()) {
	t.Helper()
	var listener net.Listener
	testkit.Eventually(t, func() (err error) { // before it is back, somebody's connection may have got the port
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		return err
	})
	server := httptest.NewUnstartedServer(a)
	require.NoError(t, server.Listener.Close())
	server.Listener = listener
	server.Start()
	stop = sync.OnceFunc(func() {
		server.CloseClientConnections()
		server.Close()
	})
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// watched waits until somebody watches.
func (a *api) watched(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, func() error {
		if a.watches.Load() == 0 {
			return errStrange
		}
		return nil
	})
}

// newAPI returns one with ConfigMaps a and b.
func newAPI() *api {
	return &api{events: make(chan string), list: func(*http.Request) string {
		return `{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [` +
			configMap("a", "5") + `,` + configMap("b", "6") + `]}`
	}}
}

func configMap(name, version string) string {
	return `{"kind": "ConfigMap", "apiVersion": "v1", "data": {"key": "value"}, "metadata": {"namespace": "n", "name": "` + name +
		`", "uid": "u-` + name + `", "resourceVersion": "` + version +
		`", "labels": {"app": "x"}, "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{}]}}`
}

func TestView_ShowsWhatThereIsAndWhatChanges(t *testing.T) {
	a := newAPI()
	now := testclock.NewFakeClock(time.Now())
	c := start(t, serve(t, a.ServeHTTP), now)
	v, err := c.View(t.Context(), configMaps, objects.Whole)
	require.NoError(t, err)
	defer v.Release()
	list, p := v.List("n")
	require.Equal(t, []string{"n/a@5", "n/b@6"}, names(list))
	first := list[0]
	require.JSONEq(t, `{"kind": "ConfigMap", "apiVersion": "v1", "data": {"key": "value"}, "metadata": {"namespace": "n", "name": "a",
		"uid": "u-a", "resourceVersion": "5", "labels": {"app": "x"}, "creationTimestamp": "2026-01-02T03:04:05Z"}}`, string(first.JSON))
	require.Equal(t, "u-a", first.UID)
	require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), first.Created)
	require.Equal(t, "x", first.Labels["app"])
	require.Nil(t, v.Columns())
	fresh := v.Freshness()
	require.Equal(t, objects.Freshness{ResourceVersion: "7", CurrentAt: now.Now(), Version: "v1", Kind: "ConfigMap", Namespaced: true}, fresh)

	changed := v.Changed(p)
	now.Step(time.Second)
	a.events <- `{"type": "MODIFIED", "object": ` + configMap("a", "8") + `}`
	<-changed
	changes, p, known := v.Since(p)
	require.True(t, known)
	require.Len(t, changes, 1)
	require.Same(t, first, changes[0].Before)
	require.Equal(t, "8", v.Get("n", "a").ResourceVersion)
	require.Nil(t, v.Get("n", "c"))

	now.Step(time.Minute)
	a.events <- `{"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}}`
	testkit.Eventually(t, func() error {
		if fresh := v.Freshness(); fresh.ResourceVersion != "9" || !fresh.CurrentAt.Equal(now.Now()) {
			return fmt.Errorf("it is %v", fresh) //nolint:err113 // for people
		}
		return nil
	})
	require.False(t, closed(v.Changed(p)))
	require.Equal(t, int32(1), a.lists.Load())
}

func TestView_QuestionsAtTheSameTimeShareAnInformer(t *testing.T) {
	a := newAPI()
	c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
	var askers errgroup.Group
	for range 20 {
		askers.Go(func() error {
			v, err := c.View(t.Context(), configMaps, objects.Whole)
			if err == nil {
				v.Release()
				v.Release() // once is enough
			}
			return err
		})
	}
	require.NoError(t, askers.Wait())
	require.Equal(t, int32(1), a.lists.Load())
	require.Empty(t, c.Ensure(t.Context(), []*meta.RESTMapping{configMaps}))
	require.Equal(t, int32(2), a.lists.Load(), "the engine has the metadata of ConfigMaps")
	v, err := c.View(t.Context(), configMaps, objects.Metadata)
	require.NoError(t, err)
	defer v.Release()
	require.Equal(t, int32(2), a.lists.Load(), "and so have questions")
	require.Equal(t, 1, c.resources[configMaps.Resource.GroupResource()].store.audience.views)
}

func TestView_MetadataAreCutFromWhatTheEngineHas(t *testing.T) {
	a := newAPI()
	c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
	require.Empty(t, c.Ensure(t.Context(), []*meta.RESTMapping{pods}))
	v, err := c.View(t.Context(), pods, objects.Metadata)
	require.NoError(t, err)
	defer v.Release()
	list, p := v.List("")
	const want = `{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"namespace": "n", "name": "b", "uid": "u-b",
		"resourceVersion": "%s", "labels": {"app": "x"}, "creationTimestamp": "2026-01-02T03:04:05Z"}}`
	require.JSONEq(t, fmt.Sprintf(want, "6"), string(list[1].JSON))
	require.JSONEq(t, fmt.Sprintf(want, "6"), string(v.Get("n", "b").JSON))
	changed := v.Changed(p)
	a.events <- `{"type": "MODIFIED", "object": ` + configMap("b", "8") + `}`
	<-changed
	changes, _, known := v.Since(p)
	require.True(t, known)
	require.JSONEq(t, fmt.Sprintf(want, "6"), string(changes[0].Before.JSON))
	require.JSONEq(t, fmt.Sprintf(want, "8"), string(changes[0].After.JSON))
	whole, err := c.View(t.Context(), pods, objects.Whole)
	require.NoError(t, err)
	defer whole.Release()
	require.Contains(t, string(whole.Get("n", "b").JSON), `"data"`)
	require.Equal(t, int32(1), a.lists.Load())
}

func TestView_OfAnotherVersionThanTheEnginesIsOfThatVersion(t *testing.T) {
	a := newAPI()
	c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
	old := *pods
	old.Resource.Version = "v1beta1"
	asked, err := c.View(t.Context(), &old, objects.Whole)
	require.NoError(t, err)
	defer asked.Release()
	require.Empty(t, c.Ensure(t.Context(), []*meta.RESTMapping{pods}))
	<-asked.Ended()
	require.Equal(t, "v1", c.resources[pods.Resource.GroupResource()].mapping.Resource.Version)
	again, err := c.View(t.Context(), &old, objects.Whole)
	require.NoError(t, err)
	defer again.Release()
	require.Equal(t, "v1beta1", again.Freshness().Version)
}

func TestView_StaysWhileTheAPIServerIsAway(t *testing.T) {
	a := newAPI()
	now := testclock.NewFakeClock(time.Now())
	host, stop := a.listen(t, "127.0.0.1:0")
	c := start(t, "http://"+host, now)
	require.Empty(t, c.Ensure(t.Context(), []*meta.RESTMapping{pods}))
	v, err := c.View(t.Context(), pods, objects.Whole)
	require.NoError(t, err)
	defer v.Release()
	_, p := v.List("")
	a.watched(t)
	stop()
	for range 3 { // the engine notices, time and again
		testkit.Eventually(t, func() error {
			if len(c.Ensure(t.Context(), []*meta.RESTMapping{pods})) == 0 {
				return errStrange
			}
			return nil
		})
	}
	since := v.Freshness().CurrentAt // before that, that the watch stands may not have been noted yet
	now.Step(time.Minute)
	again, err := c.View(t.Context(), pods, objects.Whole)
	require.NoError(t, err, "it is known")
	defer again.Release()
	list, _ := again.List("")
	require.Equal(t, []string{"n/a@5", "n/b@6"}, names(list))
	require.Equal(t, since, again.Freshness().CurrentAt)
	require.False(t, closed(v.Ended()))

	// It comes back with other objects.
	a.list = func(*http.Request) string {
		return `{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "17"}, "items": [` + configMap("b", "16") + `]}`
	}
	changed := v.Changed(p)
	a.listen(t, host)
	testkit.Eventually(t, func() error {
		return c.Ensure(t.Context(), []*meta.RESTMapping{pods})[pods.Resource.GroupResource()]
	})
	<-changed
	changes, _, known := v.Since(p)
	require.True(t, known, "positions stay good")
	replayed, err := replay(list, changes)
	require.NoError(t, err)
	require.Equal(t, []string{"n/b@16"}, names(replayed))
	require.Equal(t, now.Now(), v.Freshness().CurrentAt)
}

func TestView_FailsAsTheAPIServerSays(t *testing.T) {
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		a := newAPI()
		a.status.Store(http.StatusForbidden)
		host, stop := a.listen(t, "127.0.0.1:0")
		c := start(t, "http://"+host, testclock.NewFakeClock(time.Now()))
		_, err := c.View(t.Context(), pods, form)
		require.True(t, apierrors.IsForbidden(err), "%v", err)
		require.Empty(t, c.resources)
		require.Empty(t, c.asked, "the next one tries again at once")
		a.status.Store(http.StatusNotFound)
		_, err = c.View(t.Context(), pods, form)
		require.True(t, apierrors.IsNotFound(err), "%v", err)
		stop()
		_, err = c.View(t.Context(), pods, form)
		require.Error(t, err)
		require.False(t, isAPIStatus(err))
		_, err = c.View(t.Context(), pods, 0)
		require.ErrorIs(t, err, ErrForm)
	}
}

func TestView_EndsWhenItMayNotBeReadAnyMore(t *testing.T) {
	for _, form := range []objects.Form{objects.Whole, objects.Metadata, objects.Table} {
		for _, status := range []int{http.StatusForbidden, http.StatusNotFound} {
			t.Run(fmt.Sprint(form, status), func(t *testing.T) {
				t.Parallel()
				a := newAPI()
				c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
				v, err := c.View(t.Context(), configMaps, form)
				require.NoError(t, err)
				defer v.Release()
				require.False(t, closed(v.Ended()))
				a.watched(t)
				a.status.Store(int32(status))
				a.events <- ""
				<-v.Ended()
				_, err = c.View(t.Context(), configMaps, form)
				require.Equal(t, status, int(statusOf(t, err)))
			})
		}
	}
}

func statusOf(t *testing.T, err error) int32 {
	t.Helper()
	var status apierrors.APIStatus
	require.ErrorAs(t, err, &status)
	return status.Status().Code
}

func TestView_IsForgottenAfterAWhile(t *testing.T) {
	a := newAPI()
	now := testclock.NewFakeClock(time.Now())
	c := start(t, serve(t, a.ServeHTTP), now)
	gr := configMaps.Resource.GroupResource()
	require.Empty(t, c.Ensure(t.Context(), []*meta.RESTMapping{configMaps}))
	whole, err := c.View(t.Context(), configMaps, objects.Whole)
	require.NoError(t, err)
	metadata, err := c.View(t.Context(), configMaps, objects.Metadata)
	require.NoError(t, err)
	metadata.List("")
	require.Len(t, c.asked, 1)
	asked := c.asked[question{resource: configMaps.Resource, form: objects.Whole}]

	later := now.Now().Add(2 * defaultIdleTimeout)
	c.reap(later)
	require.Len(t, c.asked, 1, "a View is held")
	require.NotNil(t, c.resources[gr].store.index)
	whole.Release()
	metadata.Release()
	c.reap(now.Now().Add(defaultIdleTimeout))
	require.Len(t, c.asked, 1)
	c.reap(now.Now().Add(defaultIdleTimeout + 1))
	require.Empty(t, c.asked)
	<-asked.quit
	require.Len(t, c.resources, 1, "the engine has asked not long ago")
	require.Nil(t, c.resources[gr].store.index)

	c.Configure(Settings{IdleTimeout: time.Hour})
	whole, err = c.View(t.Context(), configMaps, objects.Whole)
	require.NoError(t, err)
	whole.Release()
	c.reap(now.Now().Add(time.Hour))
	require.Len(t, c.asked, 1)
	now.Step(2 * time.Hour) // Run's own timer
	testkit.Eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.asked)+len(c.resources) > 0 {
			return ErrNotSynced
		}
		return nil
	})
}

func TestView_SecretsShowTheirKeysUnlessConfigured(t *testing.T) {
	a := newAPI()
	a.list = func(*http.Request) string {
		return `{"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [
			{"kind": "Secret", "apiVersion": "v1", "type": "Opaque", "data": {"key": "dmFsdWU="}, "metadata": {"namespace": "n", "name": "a",
			"resourceVersion": "7", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "dmFsdWU="}}}]}`
	}
	c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
	secrets := *configMaps
	secrets.Resource.Resource = "secrets"
	secrets.GroupVersionKind.Kind = "Secret"
	v, err := c.View(t.Context(), &secrets, objects.Whole)
	require.NoError(t, err)
	defer v.Release()
	require.True(t, v.Freshness().Redacted)
	require.JSONEq(t, `{"kind": "Secret", "apiVersion": "v1", "type": "Opaque", "data": {"key": ""}, "metadata":
		{"namespace": "n", "name": "a", "resourceVersion": "7", "annotations": {}}}`, string(v.Get("n", "a").JSON))

	c.Configure(Settings{SecretValues: true})
	<-v.Ended()
	open, err := c.View(t.Context(), &secrets, objects.Whole)
	require.NoError(t, err)
	defer open.Release()
	require.False(t, open.Freshness().Redacted)
	require.Contains(t, string(open.Get("n", "a").JSON), "dmFsdWU=")
	c.Configure(Settings{SecretValues: true, IdleTimeout: time.Minute})
	require.False(t, closed(open.Ended()))
	c.Configure(Settings{})
	<-open.Ended()
	require.NotContains(t, string(v.Get("n", "a").JSON), "dmFsdWU=")
}

func TestView_OfTooManyResourcesIsRefused(t *testing.T) {
	a := newAPI()
	c := start(t, serve(t, a.ServeHTTP), testclock.NewFakeClock(time.Now()))
	var engines []*meta.RESTMapping
	for i := range 3 {
		m := *pods
		m.Resource.Resource = fmt.Sprint("engines", i)
		engines = append(engines, &m)
	}
	require.Empty(t, c.Ensure(t.Context(), engines))
	// As if they were asked about, one after another.
	c.mu.Lock()
	for i := range maxAsked {
		m := *pods
		m.Resource.Resource = fmt.Sprint("r", i)
		r := c.askLocked(&m, question{resource: m.Resource, form: objects.Table})
		r.store.audience = audience{views: 1, at: c.cfg.Clock.Now().Add(time.Duration(i))}
	}
	c.mu.Unlock()
	_, err := c.View(t.Context(), pods, objects.Whole)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "follow pods")
	v, err := c.View(t.Context(), engines[0], objects.Whole)
	require.NoError(t, err, "it is followed anyway")
	v.Release()

	seventh := question{resource: pods.Resource, form: objects.Table}
	seventh.resource.Resource = "r7"
	c.mu.Lock()
	for _, i := range []string{"r7", "r9"} {
		q := seventh
		q.resource.Resource = i
		c.asked[q].store.audience.views = 0
	}
	c.mu.Unlock()
	v, err = c.View(t.Context(), pods, objects.Whole)
	require.NoError(t, err)
	defer v.Release()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NotContains(t, c.asked, seventh, "it was asked about longest ago")
	require.Len(t, c.asked, maxAsked-1)
	require.Len(t, c.resources, 4)
}

package agentk

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMeasured_CountsRequestsByMethodAndStatus(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	registry := prometheus.NewRegistry()
	plain := &rest.Config{Host: server.URL}
	cfg, err := measured(plain, registry, clocktesting.NewFakePassiveClock(time.Unix(0, 0)))
	require.NoError(t, err)
	require.Nil(t, plain.WrapTransport)
	client, err := rest.HTTPClientFor(cfg)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	ask := func(method, path string) {
		request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, http.NoBody)
		require.NoError(t, err)
		answer, err := client.Do(request)
		if err == nil {
			require.NoError(t, answer.Body.Close())
		}
	}
	ask(http.MethodGet, "/a?limit=1")
	ask(http.MethodGet, "/none")
	ask(http.MethodGet, "/a?allowWatchBookmarks=true&watch=true")
	ask(http.MethodPatch, "/a?watch=true")
	ask("FOO", "/a")
	server.Close()
	ask(http.MethodDelete, "/a")

	families, err := registry.Gather()
	require.NoError(t, err)
	got := map[string]uint64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
	}
	require.Equal(t, map[string]uint64{"GET 200": 1, "GET 404": 1, "WATCH 200": 1, "PATCH 200": 1, "other 200": 1, "DELETE none": 1}, got)
}

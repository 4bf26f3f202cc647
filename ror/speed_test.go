package ror

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestSpeed_FromPushToWhatKasTells(t *testing.T) {
	epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := clocktesting.NewFakePassiveClock(epoch)
	s, err := newSpeed(prometheus.NewRegistry(), clock)
	require.NoError(t, err)
	measured := func(applied, ready float64) {
		t.Helper()
		for h, want := range map[prometheus.Histogram]float64{s.applied: applied, s.ready: ready} {
			m := &dto.Metric{}
			require.NoError(t, h.Write(m))
			require.InDelta(t, want, m.GetHistogram().GetSampleSum(), 1e-9)
		}
	}
	tell := func(after time.Duration, agent int64, commit, applied string, ready bool) {
		clock.SetTime(epoch.Add(after))
		status := &syncstatus.ProjectStatus{
			AgentId: agent, ProjectId: "12", ProjectPath: "a/b", WantedCommit: commit, AppliedCommit: applied, Times: &syncstatus.Times{},
		}
		if ready {
			status.Times.ReadyAt = timestamppb.New(epoch.Add(-time.Hour))
		}
		s.told(status)
	}
	push := func(commit string) {
		s.pushed(registry.Push{Project: registry.Project{FullPath: "a/b"}, At: clock.Now(), Changes: []registry.RefChange{{New: commit}}})
	}
	tell(0, 7, "c0", "c0", true) // from before
	push("c1")
	tell(time.Second, 7, "c1", "c0", false)
	measured(0, 0)
	tell(2*time.Second, 7, "c1", "c1", false)
	measured(2, 0)
	tell(3*time.Second, 7, "c1", "c1", true)
	tell(time.Hour, 7, "c1", "c1", true) // anything else has changed
	measured(2, 3)
	tell(4*time.Second, 8, "c1", "c1", true) // another cluster
	measured(6, 7)
	for i := range maxPushes {
		push("other " + strconv.Itoa(i))
	}
	tell(time.Hour, 9, "c1", "c1", true) // forgotten
	measured(6, 7)
	require.Len(t, s.pushes, maxPushes)
	require.Len(t, s.order, maxPushes)
}

func TestRequests_AreCountedByRouteAndStatus(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := newRequests(registry)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /a/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /a", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	})
	h := m.of("test", mux)
	for _, r := range []struct{ method, path string }{{"GET", "/a/1"}, {"GET", "/a/2"}, {"POST", "/a"}, {"GET", "/b"}} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), r.method, r.path, http.NoBody))
	}
	for labels, want := range map[[2]string]float64{{"GET /a/{id}", "200"}: 2, {"POST /a", "418"}: 1, {noRoute, "404"}: 1} {
		require.InDelta(t, want, testutil.ToFloat64(m.count.WithLabelValues(labels[0], labels[1])), 0, "%v", labels)
	}
	for i := range 2 * maxRoutes {
		m.of("test", withPattern(http.NotFoundHandler(), func(*http.Request) string { return strconv.Itoa(i) })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	}
	require.LessOrEqual(t, testutil.CollectAndCount(m.count), maxRoutes+2)
}

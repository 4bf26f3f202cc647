package agentk

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/agentk/desired"
)

func TestSpeed_MeasuresEachSetOnce(t *testing.T) {
	epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &speed{applied: prometheus.NewHistogram(prometheus.HistogramOpts{}), ready: prometheus.NewHistogram(prometheus.HistogramOpts{})}
	measured := func(applied, ready float64) {
		t.Helper()
		for h, want := range map[prometheus.Histogram]float64{s.applied: applied, s.ready: ready} {
			m := &dto.Metric{}
			require.NoError(t, h.Write(m))
			require.InDelta(t, want, m.GetHistogram().GetSampleSum(), 1e-9)
		}
	}
	first := &desired.Set{Began: epoch}
	s.begin(first, false)
	s.isReady(epoch.Add(time.Second)) // of what failed in part
	measured(0, 0)
	s.isApplied(epoch.Add(2 * time.Second))
	s.isReady(epoch.Add(3 * time.Second))
	measured(2, 3)
	s.begin(first, false) // somebody else has changed objects
	s.isApplied(epoch.Add(time.Hour))
	s.isReady(epoch.Add(time.Hour))
	measured(2, 3)

	held := &desired.Set{Began: epoch}
	s.begin(held, true)
	s.begin(held, false)
	s.isApplied(epoch.Add(time.Hour))
	s.isReady(epoch.Add(time.Hour))
	s.begin(&desired.Set{}, false)
	s.isApplied(epoch)
	s.isReady(epoch)
	measured(2, 3)

	s.begin(&desired.Set{Began: epoch}, false)
	s.isApplied(epoch.Add(time.Second))
	measured(3, 3)
}

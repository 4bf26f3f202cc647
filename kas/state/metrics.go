package state

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/status"
)

const (
	methodGet   = "Get"
	methodList  = "List"
	methodWatch = "Watch"
	methodFleet = "ListFleet"
)

type metrics struct {
	requests *prometheus.CounterVec
	watchers prometheus.Gauge
	shared   prometheus.Gauge
	private  prometheus.Gauge
	kept     prometheus.Gauge
	reopened prometheus.Counter
	behind   prometheus.Counter
	fleet    *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := promauto.With(registerer)
	return &metrics{
		requests: m.NewCounterVec(prometheus.CounterOpts{Name: "kas_state_requests_total", Help: "Questions of RoR about clusters that have ended, by method and code."}, []string{"method", "code"}),
		watchers: m.NewGauge(prometheus.GaugeOpts{Name: "kas_state_watchers", Help: "Open watches of RoR."}),
		shared:   m.NewGauge(prometheus.GaugeOpts{Name: "kas_state_shared_watches", Help: "Open watches of agents that watchers share."}),
		private:  m.NewGauge(prometheus.GaugeOpts{Name: "kas_state_private_watches", Help: "Open watches of agents for one watcher each."}),
		kept:     m.NewGauge(prometheus.GaugeOpts{Name: "kas_state_kept_bytes", Help: "What is kept for shared watches, in bytes."}),
		reopened: m.NewCounter(prometheus.CounterOpts{Name: "kas_state_watches_lost_total", Help: "Watches of agents that broke and were opened again."}),
		behind:   m.NewCounter(prometheus.CounterOpts{Name: "kas_state_watchers_behind_total", Help: "How often a watcher read too slowly and began anew."}),
		fleet:    m.NewCounterVec(prometheus.CounterOpts{Name: "kas_state_fleet_agents_total", Help: "Agents that questions to many agents were about, by code of their answer."}, []string{"code"}),
	}
}

// requested counts a request that has ended.
func (m *metrics) requested(method string, err error) {
	m.requests.WithLabelValues(method, codeOf(err)).Inc()
}

func codeOf(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	return s.Code().String()
}

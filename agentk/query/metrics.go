package query

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

type metrics struct {
	requests *prometheus.CounterVec
	items    *prometheus.CounterVec
	watches  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_query_requests_total",
			Help: "Questions about the cluster that ended, by method (Get, List, Watch) and gRPC code.",
		}, []string{"method", "code"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_query_items_total",
			Help: "Objects, and events of watches, that answers held, by method (Get, List, Watch).",
		}, []string{"method"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_query_watches",
			Help: "Watches of the cluster that are open.",
		}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.items, m.watches} {
		if err := reg.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // NewServer says that it is about metrics
		}
	}
	return m, nil
}

// ended counts a request.
func (m *metrics) ended(method string, err error) {
	m.requests.WithLabelValues(method, status.Code(err).String()).Inc()
}

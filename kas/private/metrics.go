package private

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections prometheus.Gauge
	ping        prometheus.Histogram
	lost        prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_private_connections", Help: "Connections to other replicas of kas, up to two to each that is being called, or was lately.",
		}),
		ping: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kas_private_ping_seconds", Help: "How long other replicas of kas took to give a sign of life.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kas_private_connections_lost_total", Help: "Connections to other replicas of kas that were closed because they gave no sign of life.",
		}),
	}
	for _, c := range []prometheus.Collector{m.connections, m.ping, m.lost} {
		if err := registerer.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // the caller says what was being done
		}
	}
	return m, nil
}

package replicas

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	up       prometheus.Gauge
	alive    prometheus.Gauge
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	messages *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_redis_up", Help: "1 while Redis can be used, 0 while it is away or not configured.",
		}),
		alive: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_replicas_others", Help: "Other replicas of kas that are alive, as Redis said last.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_redis_calls_total", Help: "Calls of Redis by what they were for and result: ok, refused (an error reply), failed (no good answer), left (the caller did not wait).",
		}, []string{"call", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kas_redis_call_seconds", Help: "How long calls of Redis took, by what they were for.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"call"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_replicas_messages_total", Help: "Messages between replicas, by direction (in, out) and result (ok, lost).",
		}, []string{"direction", "result"}),
	}
	for _, c := range []prometheus.Collector{m.up, m.alive, m.calls, m.seconds, m.messages} {
		if err := registerer.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // New says what was being done
		}
	}
	return m, nil
}

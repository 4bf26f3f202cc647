package tunnel

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of a Server.
type Metrics struct {
	streams *prometheus.GaugeVec
	rpcs    *prometheus.CounterVec
	// bytes of messages, and its counters.
	bytes          *prometheus.CounterVec
	fromKas, toKas prometheus.Counter
	held           prometheus.Counter
}

// NewMetrics returns metrics that reg has registered.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := newMetrics()
	for _, c := range []prometheus.Collector{m.streams, m.rpcs, m.bytes, m.held} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the tunnel: %w", err)
		}
	}
	return m, nil
}

func newMetrics() *Metrics {
	m := &Metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "agentk_tunnel_streams",
			Help: "Streams of the reverse tunnel that are open, by state (idle, busy).",
		}, []string{"state"}),
		rpcs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_tunnel_rpcs_total",
			Help: "RPCs from kas that were answered over the reverse tunnel, by method and gRPC code.",
		}, []string{"method", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_tunnel_bytes_total",
			Help: "Bytes of the messages of RPCs over the reverse tunnel, by direction: from_kas or to_kas.",
		}, []string{"direction"}),
		held: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "agentk_tunnel_held_seconds_total",
			Help: "How long large answers over the reverse tunnel were held back for small ones, all together.",
		}),
	}
	m.fromKas, m.toKas = m.bytes.WithLabelValues("from_kas"), m.bytes.WithLabelValues("to_kas")
	return m
}

package proxy

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests       *prometheus.CounterVec
	running        prometheus.Gauge
	upgraded       prometheus.Gauge
	toAgent, from  prometheus.Counter
	authorizations *prometheus.CounterVec
}

// codeGone counts requests whose client left before there was an answer; HTTP has no code
// for that.
const codeGone = 499

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kas_proxy_bytes_total", Help: "Bytes of bodies and upgraded connections through the Kubernetes API proxy, by direction: to_agent or from_agent.",
	}, []string{"direction"})
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_proxy_requests_total", Help: "Requests to the Kubernetes API proxy that have ended, by how they were authorised and HTTP status; 499: the client left before there was one.",
		}, []string{"access", "code"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_proxy_requests_running", Help: "Requests to the Kubernetes API proxy that are being answered.",
		}),
		upgraded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_proxy_upgraded_connections", Help: "Connections to the Kubernetes API proxy that speak WebSocket or SPDY by now.",
		}),
		toAgent: bytes.WithLabelValues("to_agent"), from: bytes.WithLabelValues("from_agent"),
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_proxy_authorizations_total", Help: "Questions about who may reach a cluster, by access and by how they were answered: hit (remembered), asked (RoR), failed (RoR could not).",
		}, []string{"access", "how"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.running, m.upgraded, bytes, m.authorizations} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) ended(access kind, code int) {
	m.requests.WithLabelValues(string(access), strconv.Itoa(code)).Inc()
}

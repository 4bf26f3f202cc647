package kubeapi

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

type metrics struct {
	requests          *prometheus.CounterVec
	running, upgraded prometheus.Gauge
	// up are bytes to the API server, down bytes from it.
	up, down prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_kubernetes_api_requests_total",
			Help: "Requests to the Kubernetes API in the name of people and CI jobs, by method and HTTP status, or gRPC code where there was no answer.",
		}, []string{"method", "code"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_kubernetes_api_requests_running",
			Help: "Requests to the Kubernetes API in the name of people and CI jobs whose answer has not ended.",
		}),
		upgraded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_kubernetes_api_upgraded_running",
			Help: "Requests of agentk_kubernetes_api_requests_running that have become a WebSocket or SPDY connection.",
		}),
	}
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "agentk_kubernetes_api_bytes_total",
		Help: "Bytes of bodies and upgraded connections, by direction: up to the API server, down from it.",
	}, []string{"direction"})
	m.up, m.down = bytes.WithLabelValues("up"), bytes.WithLabelValues("down")
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.running, m.upgraded, bytes} {
		if err := reg.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // NewServer says that it is about metrics
		}
	}
	return m, nil
}

// answered counts a request to which there is an answer.
func (m *metrics) answered(method string, code int) {
	m.requests.WithLabelValues(method, strconv.Itoa(code)).Inc()
}

// failed counts a request to which there was none.
func (m *metrics) failed(method string, err error) {
	if !slices.Contains(methods, method) {
		method = "other"
	}
	m.requests.WithLabelValues(method, status.Code(err).String()).Inc()
}

func (m *metrics) sent(n int) { m.up.Add(float64(n)) }

func (m *metrics) received(n int) { m.down.Add(float64(n)) }

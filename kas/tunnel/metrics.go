package tunnel

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxMethods bounds the labels of metrics: further methods are counted as otherMethod.
const (
	maxMethods  = 100
	otherMethod = "other"
)

type metrics struct {
	idle, busy    prometheus.Gauge
	wait          prometheus.Histogram
	toAgent, from prometheus.Counter
	rpcs          *prometheus.CounterVec
	elsewhere     *prometheus.CounterVec

	mu      sync.RWMutex
	methods map[string]bool
	ends    map[rpcEnd]prometheus.Counter
}

type rpcEnd struct {
	method string
	code   codes.Code
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	streams := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kas_tunnel_streams", Help: "Open streams of the reverse tunnel: idle, or busy with an RPC.",
	}, []string{"state"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kas_tunnel_bytes_total", Help: "Bytes of the messages of RPCs through the tunnel, by direction: to_agent or from_agent.",
	}, []string{"direction"})
	m := &metrics{
		idle: streams.WithLabelValues("idle"), busy: streams.WithLabelValues("busy"),
		toAgent: bytes.WithLabelValues("to_agent"), from: bytes.WithLabelValues("from_agent"),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kas_tunnel_wait_seconds", Help: "How long RPCs waited for a stream of their agent.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
		rpcs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_tunnel_rpcs_total", Help: "RPCs to agents that have ended, by method and code.",
		}, []string{"method", "code"}),
		elsewhere: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_tunnel_elsewhere_total", Help: "RPCs that went by way of another kas, by what came of it: begun, or refused because it did not have the agent or was not there.",
		}, []string{"outcome"}),
		methods: make(map[string]bool), ends: make(map[rpcEnd]prometheus.Counter),
	}
	for _, c := range []prometheus.Collector{streams, bytes, m.wait, m.rpcs, m.elsewhere} {
		if err := registerer.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // NewServer says what was being done
		}
	}
	return m, nil
}

// ended counts an RPC.
func (m *metrics) ended(method string, err error) {
	end := rpcEnd{method, status.Code(err)}
	if end.code > codes.Unauthenticated { // an agent may say anything
		end.code = codes.Unknown
	}
	m.mu.RLock()
	counter := m.ends[end]
	m.mu.RUnlock()
	if counter == nil {
		counter = m.newEnd(end)
	}
	counter.Inc()
}

func (m *metrics) newEnd(end rpcEnd) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.methods[end.method] && len(m.methods) >= maxMethods {
		return m.rpcs.WithLabelValues(otherMethod, end.code.String())
	}
	m.methods[end.method] = true
	counter := m.rpcs.WithLabelValues(strings.ToValidUTF8(end.method, "\uFFFD"), end.code.String())
	m.ends[end] = counter
	return counter
}

func (m *metrics) sent(bytes int) { m.toAgent.Add(float64(bytes)) }

func (m *metrics) far(outcome string) { m.elsewhere.WithLabelValues(outcome).Inc() }

func (m *metrics) received(messages [][]byte) {
	for _, message := range messages {
		m.from.Add(float64(len(message)))
	}
}

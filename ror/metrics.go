package ror

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/callmetrics"
)

const (
	// maxRoutes bounds the labels of metrics: further routes are counted as otherRoute.
	maxRoutes  = 300
	otherRoute = "other"
	noRoute    = "none"
)

// metrics are all of ror's, but for those of tracing.
type metrics struct {
	requests *requests
	speed    *speed
	// kas and gitaly are for connections there.
	kas, gitaly []grpc.DialOption
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{}
	var err error
	if m.requests, err = newRequests(registerer); err != nil {
		return nil, err
	}
	if m.speed, err = newSpeed(registerer, clock.RealClock{}); err != nil {
		return nil, err
	}
	if m.kas, err = callmetrics.DialOptions(registerer, "ror_kas_call_seconds", "How long calls of kas took, by method and gRPC code."); err != nil {
		return nil, err
	}
	m.gitaly, err = callmetrics.DialOptions(registerer, "ror_gitaly_call_seconds", "How long calls of Gitaly took, by method and gRPC code.")
	return m, err
}

// requests measures what is served.
type requests struct {
	seconds *prometheus.HistogramVec
	count   *prometheus.CounterVec

	mu     sync.Mutex
	routes map[string]struct{}
}

func newRequests(registerer prometheus.Registerer) (*requests, error) {
	m := &requests{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ror_http_request_duration_seconds",
			Help:    "How long requests took, by the part of RoR that served them and HTTP status.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"room", "code"}),
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ror_http_requests_total",
			Help: "Requests that were served, by route (none: there is no such) and HTTP status.",
		}, []string{"route", "code"}),
		routes: make(map[string]struct{}),
	}
	for _, c := range []prometheus.Collector{m.seconds, m.count} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// of measures the requests of a part, whose handler sets their Pattern.
func (m *requests) of(room string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, answer := time.Now(), &answer{ResponseWriter: w}
		defer func() { // a handler may panic to cut the connection
			code := strconv.Itoa(answer.status())
			m.seconds.WithLabelValues(room, code).Observe(time.Since(began).Seconds())
			m.count.WithLabelValues(m.route(r.Pattern), code).Inc()
		}()
		h.ServeHTTP(answer, r)
	})
}

// route is a pattern as a label: some are made of what is asked for.
func (m *requests) route(pattern string) string {
	if pattern == "" {
		return noRoute
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.routes[pattern]; !known && len(m.routes) >= maxRoutes {
		return otherRoute
	}
	m.routes[pattern] = struct{}{}
	return pattern
}

// answer remembers the status of an answer.
type answer struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	if a.code == 0 && code >= http.StatusOK {
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Unwrap has http.ResponseController reach the writer itself.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) status() int {
	if a.code == 0 {
		return http.StatusOK // nothing but a body was written, or not even that
	}
	return a.code
}

package agentk

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
)

// methodWatch stands for a GET that goes on.
const methodWatch = "WATCH"

// requestMethods are those of the Kubernetes API.
var requestMethods = []string{
	http.MethodGet, methodWatch, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions,
}

// measured returns a copy of the configuration whose requests are measured, from when they
// are sent until the answer begins.
func measured(cfg *rest.Config, registerer prometheus.Registerer, c clock.PassiveClock) (*rest.Config, error) {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "agentk_apiserver_request_seconds",
		Help:    "How long the API server took to begin to answer this agent's own requests, by method (WATCH: a GET that goes on) and HTTP status; none: there was no answer.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
	}, []string{"method", "code"})
	if err := registerer.Register(seconds); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &meter{next: next, clock: c, seconds: seconds}
	})
	return cfg, nil
}

type meter struct {
	next    http.RoundTripper
	clock   clock.PassiveClock
	seconds *prometheus.HistogramVec
}

// RoundTrip implements http.RoundTripper.
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	began := m.clock.Now()
	answer, err := m.next.RoundTrip(r)
	code := "none"
	if err == nil {
		code = strconv.Itoa(answer.StatusCode)
	}
	m.seconds.WithLabelValues(methodOf(r), code).Observe(m.clock.Since(began).Seconds())
	return answer, err //nolint:wrapcheck // a RoundTripper passes on what it got
}

// WrappedRoundTripper has client-go reach what this is around.
func (m *meter) WrappedRoundTripper() http.RoundTripper { return m.next }

func methodOf(r *http.Request) string {
	switch {
	case r.Method == http.MethodGet && (strings.Contains(r.URL.RawQuery, "watch=true") || strings.Contains(r.URL.RawQuery, "watch=1")):
		return methodWatch
	case slices.Contains(requestMethods, r.Method):
		return r.Method
	default:
		return "other"
	}
}

package tracing

import (
	"net/http"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Transport makes a span for each request within a trace, and tells the server of it.
func (t *Tracing) Transport(to http.RoundTripper) http.RoundTripper {
	if !t.Enabled() {
		return to
	}
	return otelhttp.NewTransport(to,
		otelhttp.WithTracerProvider(t.provider), otelhttp.WithMeterProvider(noMetrics), otelhttp.WithPropagators(t.propagator),
		otelhttp.WithFilter(func(r *http.Request) bool { return trace.SpanContextFromContext(r.Context()).IsValid() }))
}

// Handler makes a span for each request but those that live long: the caller's trace goes
// on, if there is one. Its path, which names things, and its query, which may hold
// credentials, are not in it; the route is, where it is known.
func (t *Tracing) Handler(handler http.Handler) http.Handler {
	if !t.Enabled() {
		return handler
	}
	return otelhttp.NewHandler(handler, "",
		otelhttp.WithTracerProvider(t.provider), otelhttp.WithMeterProvider(noMetrics), otelhttp.WithPropagators(t.propagator),
		otelhttp.WithSpanNameFormatter(spanName),
		otelhttp.WithSpanOptions(trace.WithAttributes(attribute.String("url.path", ""))), // in place of the real one
		otelhttp.WithFilter(func(r *http.Request) bool { return !livesLong(r) }))
}

// spanName is the route, where it is known: paths are too many.
func spanName(_ string, r *http.Request) string {
	if r.Pattern == "" {
		return r.Method
	}
	_, path, found := strings.Cut(r.Pattern, " ")
	if !found {
		path = r.Pattern
	}
	return r.Method + " " + path
}

// livesLong says whether a request may live for hours: an upgraded connection, events for a
// page, or what the API of Kubernetes calls to watch and to follow.
func livesLong(r *http.Request) bool {
	if r.Header.Get("Upgrade") != "" || strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
		return true
	}
	if r.Method != http.MethodGet || r.URL.RawQuery == "" {
		return false
	}
	query := r.URL.Query()
	return isTrue(query.Get("watch")) || isTrue(query.Get("follow"))
}

func isTrue(value string) bool { return value != "" && value != "false" && value != "0" }

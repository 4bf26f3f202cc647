package ror

import (
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/tracing"
)

const (
	// internalPath is where Gitaly's hooks call, and kas.
	internalPath = "/api/v4/internal/"
	// requestID is a header by which they repeat what package gitaly told Gitaly of the
	// trace: they know nothing of W3C's.
	requestID   = "X-Request-Id"
	traceparent = "Traceparent"
)

// tracer has requests be spans, by their routes: paths hold names, of objects, too. Of what
// programs ask of each other only that is one which is part of a trace, and of what looks
// after this server nothing is. Its handlers must set the requests' Pattern.
func tracer(t *tracing.Tracing) func(http.Handler) http.Handler {
	if !t.Enabled() {
		return func(h http.Handler) http.Handler { return h }
	}
	return func(h http.Handler) http.Handler {
		traced := t.Handler(routed(h))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if mayTrace(r) {
				traced.ServeHTTP(w, r)
			} else {
				h.ServeHTTP(w, r)
			}
		})
	}
}

// mayTrace says whether a request may be a span. It understands what Gitaly's hooks say of a
// trace. Nobody is believed but who asks what is for these and kas alone.
func mayTrace(r *http.Request) bool {
	for _, prefix := range []string{"/-/assets/", "/-/metrics", "/-/liveness", "/-/readiness"} {
		if strings.HasPrefix(r.URL.Path, prefix) {
			return false
		}
	}
	if !strings.HasPrefix(r.URL.Path, internalPath) && r.URL.Path != gitlabapi.PathAllowedAgents {
		r.Header.Del(traceparent)
		return true
	}
	if id := r.Header.Get(requestID); id != "" && r.Header.Get(traceparent) == "" {
		r.Header.Set(traceparent, id) // it is ignored where it is something else
	}
	ctx := tracing.WithTraceparent(r.Context(), r.Header.Get(traceparent))
	return trace.SpanContextFromContext(ctx).IsValid()
}

// routed has the span of a request say its route in place of its path.
func routed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		span := trace.SpanFromContext(r.Context())
		defer func() { // a handler may panic to cut the connection
			_, route, found := strings.Cut(r.Pattern, " ")
			if !found {
				route = r.Pattern
			}
			span.SetAttributes(attribute.String("url.path", route))
		}()
		h.ServeHTTP(w, r)
	})
}

// withPattern says what the requests are that a handler serves which knows no patterns.
func withPattern(h http.Handler, pattern func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { r.Pattern = pattern(r) }() // also where the handler panics
		h.ServeHTTP(w, r)
	})
}

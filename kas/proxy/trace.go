package proxy

import (
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/kas-agentk/kas/internal/tracing"
)

// trace starts the span of a request, unless it lasts until its client has had enough. It
// begins a trace: what strangers say of theirs is not believed. It holds no path, which names
// objects.
func (s *Server) trace(r *http.Request, x *exchange) *http.Request {
	x.span = noop.Span{}
	if !s.cfg.Tracing.Enabled() || upgradeOf(r) != "" || isLong(r) {
		return r
	}
	ctx, span := s.cfg.Tracing.Start(r.Context(), "proxy "+methodOf(r), attribute.String("http.request.method", methodOf(r)))
	x.span = span
	return r.WithContext(ctx)
}

// methodOf is a request's method, if it is a usual one: names of spans are few.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	default:
		return "other"
	}
}

// traced ends the span of a request.
func traced(x *exchange) {
	if x.span.IsRecording() {
		x.span.SetAttributes(attribute.Int("http.response.status_code", x.code), attribute.String("access", string(x.access)),
			tracing.AgentID(x.grant.agentID), attribute.Int64("user_id", x.grant.userID))
		brokeOff := x.code < http.StatusBadRequest && x.err != nil && !errors.Is(x.err, errGone)
		if x.code == 0 || x.code >= http.StatusInternalServerError || brokeOff { // 0: it panicked
			x.span.SetStatus(codes.Error, "")
		}
	}
	x.span.End()
}

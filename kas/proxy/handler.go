package proxy

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// exchange is what is noted of a request.
type exchange struct {
	began  time.Time
	access kind
	// credential and grant are there once RoR has said so.
	credential credential
	grant      grant
	// code that the head of the answer has; zero: none is on its way.
	code int
	err  error
	// span of the request. Of one that lasts, or that is not traced, it is none.
	span trace.Span
	// hijacked: net/http has no say in the connection any more.
	hijacked bool
}

// errGone is how a request ends whose client has left.
var errGone = errors.New("the client has left")

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	end, ok := s.running.begin()
	if !ok {
		write(w, explain(r.Context(), errDraining, false))
		return
	}
	defer end()
	x := &exchange{began: s.cfg.Clock.Now(), access: byNothing}
	r = s.trace(r, x)
	s.metrics.running.Inc()
	defer func() { s.ended(r, x, recover()) }()
	s.share(w, r)
	x.err = s.handle(w, r, x)
	switch {
	case x.err == nil || x.hijacked:
	case x.code != 0: // a part of an answer must not look like the whole
		panic(http.ErrAbortHandler)
	case errors.Is(x.err, errGone):
		x.code = codeGone
		panic(http.ErrAbortHandler)
	default:
		if r.ContentLength != 0 {
			leaveBody(http.NewResponseController(w))
		}
		x.code = write(w, x.err)
	}
}

// handle answers a request, or returns why it cannot.
func (s *Server) handle(w http.ResponseWriter, r *http.Request, x *exchange) error {
	target, err := s.target(r)
	if err != nil {
		return err
	}
	if isPreflight(r) {
		x.code, err = s.preflight(w, r)
		return err
	}
	credential, err := credentialOf(r)
	if err != nil {
		return err
	}
	x.access, x.grant.agentID = credential.kind, credential.agentID
	if credential.kind == bySession && s.foreign(r) {
		return refuse(http.StatusForbidden, "pages of %.200q may not use a session: agent.kubernetes_api.allowed_origins of kas says which may", r.Header.Get("Origin"))
	}
	granted, err := s.access.authorize(r.Context(), credential)
	if err != nil {
		return unlessGone(r.Context(), err)
	}
	x.credential, x.grant = credential, granted
	if ok, retryAfter := s.limiter.Allow(r.Context(), x.grant.who); !ok {
		return refuseFor(max(retryAfter, time.Second), http.StatusTooManyRequests, "too many requests: agent.kubernetes_api.user_rate_limit of kas bounds what one person or CI job may ask")
	}
	as, err := merge(granted.impersonation, r.Header)
	if err != nil {
		return err
	}
	return s.forward(w, r, x, target, as)
}

func unlessGone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errGone
	}
	return err
}

// target is the path and query that the cluster is asked for, as they go on the wire.
func (s *Server) target(r *http.Request) (string, error) {
	path, found := strings.CutPrefix(r.URL.EscapedPath(), s.prefix)
	if !found || !strings.HasPrefix(path, "/") {
		return "", refuse(http.StatusNotFound, "there is nothing at this path: URLs of the Kubernetes API begin with %s here", s.cfg.URLPathPrefix)
	}
	if query := withoutCredentials(r.URL.RawQuery); query != "" {
		path += "?" + query
	}
	return path, nil
}

// ended notes how a request ended.
func (s *Server) ended(r *http.Request, x *exchange, panicked any) {
	s.metrics.running.Dec()
	s.metrics.ended(x.access, x.code)
	traced(x)
	if panicked != nil && panicked != http.ErrAbortHandler { //nolint:errorlint // it is a value that was thrown
		s.log.Error("A request to the Kubernetes API proxy panicked", zap.Any("panic", panicked), zap.ByteString("stack", debug.Stack()))
		panicked = http.ErrAbortHandler
	}
	s.log.Debug("Request ended",
		zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("code", x.code),
		zap.Duration("took", s.cfg.Clock.Since(x.began)), zap.String("access", string(x.access)),
		zap.Int64("agent_id", x.grant.agentID), zap.Int64("user_id", x.grant.userID), zap.String("username", x.grant.username),
		zap.Error(x.err))
	if panicked != nil {
		panic(panicked)
	}
}

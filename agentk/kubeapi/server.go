package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/tracing"
)

// Config of a Server. RESTConfig is needed: how to reach the API server, and as whom.
type Config struct {
	RESTConfig *rest.Config
	// Registerer of the metrics; nil: nobody looks.
	Registerer prometheus.Registerer
	// Tracing of requests that kas traces; nil: none is.
	Tracing *tracing.Tracing
}

// Server implements agentrpc.KubernetesApiServer.
type Server struct {
	agentrpc.UnimplementedKubernetesApiServer

	// base is the URL of the API server.
	base *url.URL
	transports
	// asOther: agentk itself impersonates somebody (--as).
	asOther bool
	metrics *metrics
	tracing *tracing.Tracing
	// services is nil before there is a configuration.
	services atomic.Pointer[services]
}

// NewServer returns a server that lets no Service be reached, and has connected to nothing.
func NewServer(cfg Config) (*Server, error) {
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics of the Kubernetes API: %w", err)
	}
	s := &Server{asOther: cfg.RESTConfig.Impersonate.UserName != "", metrics: m, tracing: cfg.Tracing}
	if s.base, _, err = rest.DefaultServerUrlFor(cfg.RESTConfig); err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	if s.transports, err = newTransports(cfg.RESTConfig); err != nil {
		return nil, err
	}
	return s, nil
}

// Configure follows the agent's configuration; nil: it says nothing.
func (s *Server) Configure(cfg *agentcfg.KubernetesApi) {
	s.services.Store(newServices(cfg.GetServices()))
}

// Close closes connections that nobody uses.
func (s *Server) Close() { s.closeIdle() }

// Do implements agentrpc.KubernetesApiServer. Its stream must take *grpctool.Raw messages,
// and have done with one when SendMsg returns, as those of the tunnel do.
func (s *Server) Do(stream grpc.BidiStreamingServer[agentrpc.HttpRequest, agentrpc.HttpResponse]) error {
	first, err := stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return invalid("there is no request")
	case err != nil:
		return err //nolint:wrapcheck // it is the RPC's status
	case first.GetHead() == nil:
		return invalid("the first message has no head")
	}
	ctx, fail := context.WithCancelCause(stream.Context())
	defer fail(nil)
	e := &exchange{server: s, stream: stream, fail: fail, method: first.GetHead().GetMethod()}
	s.metrics.running.Inc()
	defer s.metrics.running.Dec()
	err = e.do(ctx, first)
	if !e.answered {
		s.metrics.failed(e.method, err)
	}
	return err
}

// exchange is one request and its answer.
type exchange struct {
	server *Server
	stream grpc.ServerStream
	// fail ends the exchange with a status, which its context has as its cause.
	fail   context.CancelCauseFunc
	method string
	// answered: the head of the answer has been sent.
	answered bool
}

func (e *exchange) do(ctx context.Context, first *agentrpc.HttpRequest) error {
	request, err := e.server.newRequest(ctx, first.GetHead())
	if err != nil {
		return err
	}
	transport := e.server.plain
	wanted := upgradeOf(first.GetHead())
	pending := &requestBody{exchange: e, rest: first.GetData(), left: -1}
	if wanted != "" {
		transport = e.server.upgrading
		askUpgrade(request, wanted)
	} else if err := pending.attach(request, first.GetHead()); err != nil {
		return ended(ctx, err)
	} else if isBulk(request) {
		transport = e.server.bulk
	}
	response, err := e.roundTrip(ctx, transport, request)
	if err != nil {
		return ended(ctx, unreachable(err))
	}
	defer func() { _ = response.Body.Close() }()
	if err := checkUpgrade(response, wanted); err != nil {
		return err
	}
	if err := e.sendHead(response); err != nil {
		return ended(ctx, err)
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		return ended(ctx, e.goOn(ctx, response, pending))
	}
	return ended(ctx, e.sendBody(response.Body))
}

// roundTrip makes the request. What is traced of it ends with the head of the answer: the
// rest may take hours.
func (e *exchange) roundTrip(ctx context.Context, transport http.RoundTripper, request *http.Request) (*http.Response, error) {
	if !e.server.tracing.Enabled() {
		return transport.RoundTrip(request) //nolint:wrapcheck // the caller does
	}
	_, span := e.server.tracing.StartWithin(ctx, "Kubernetes API "+e.method)
	defer span.End()
	response, err := transport.RoundTrip(request)
	if err != nil {
		span.SetStatus(otelcodes.Error, "the API server cannot be reached")
		return nil, err //nolint:wrapcheck // the caller does
	}
	span.SetAttributes(attribute.Int("http.response.status_code", response.StatusCode))
	return response, nil
}

// ended is err, unless the exchange was ended before it came: then that is why.
func ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	if s, ok := status.FromError(cause); ok {
		return s.Err()
	}
	return status.FromContextError(cause).Err()
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func unreachable(err error) error {
	return status.Errorf(codes.Unavailable, "the API server cannot be reached: %v", err)
}

package tracing

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// Config of a program's tracing.
type Config struct {
	// Service is the program, for example "kas"; Version is its version.
	Service, Version string
	// Endpoint is the URL of an OTLP/HTTP collector, for example
	// "http://127.0.0.1:4318/v1/traces"; without a path it is that of the example. Empty:
	// nothing is traced.
	Endpoint string
	// Token is sent as "authorization: Bearer <token>". Empty: none is.
	Token string
	// CACertPEM are the certificates that the collector's must be signed by. Empty: those
	// that the system trusts.
	CACertPEM []byte
	// Registerer gets the metric SERVICE_trace_spans_total. Nil: nobody counts.
	Registerer prometheus.Registerer
	// Log is told that spans are lost. Nil: nobody is.
	Log *zap.Logger
	// Exporter gets each span as it ends, in place of a collector: for tests.
	Exporter sdktrace.SpanExporter
}

// Tracing makes spans. It is safe for concurrent use; nil traces nothing.
type Tracing struct {
	provider   *sdktrace.TracerProvider // nil: nothing is traced
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	queue      *queue // nil: there is no collector
}

// New starts tracing. Its errors are mistakes in cfg: the collector need not be there.
func New(ctx context.Context, cfg Config) (*Tracing, error) {
	if cfg.Endpoint == "" && cfg.Exporter == nil {
		return &Tracing{}, nil
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", cfg.Service), attribute.String("service.version", cfg.Version)),
		resource.WithHost(),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("say where traces come from: %w", err)
	}
	t := &Tracing{propagator: propagation.TraceContext{}}
	var processor sdktrace.SpanProcessor
	if cfg.Exporter != nil {
		processor = sdktrace.NewSimpleSpanProcessor(cfg.Exporter)
	} else {
		if t.queue, err = newQueue(ctx, cfg); err != nil {
			return nil, err
		}
		processor = t.queue
	}
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithSpanProcessor(processor))
	t.tracer = t.provider.Tracer("github.com/kas-agentk/kas", trace.WithInstrumentationVersion(cfg.Version))
	return t, nil
}

// Enabled says whether anything is traced.
func (t *Tracing) Enabled() bool { return t != nil && t.provider != nil }

// Shutdown sends what is waiting to be sent, until ctx ends: the rest is lost then. It
// returns nil: that spans are lost fails nothing.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if !t.Enabled() {
		return nil
	}
	if t.queue == nil {
		_ = t.provider.Shutdown(ctx) // it is a test's
		return nil
	}
	t.queue.end(ctx)
	return nil
}

// Tracer makes spans that need more than Start offers: links, say, or their own times.
func (t *Tracing) Tracer() trace.Tracer {
	if !t.Enabled() {
		return noop.Tracer{}
	}
	return t.tracer
}

// Start starts a span below that of ctx, or a trace where there is none. The caller ends
// it. Where nothing is traced it returns ctx and a span that does nothing.
func (t *Tracing) Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	if !t.Enabled() {
		return ctx, noop.Span{}
	}
	// The clone keeps the caller's list on its stack where nothing is traced.
	return t.tracer.Start(ctx, name, trace.WithAttributes(slices.Clone(attributes)...))
}

// noMetrics keeps instrumentation from the global meter: programs have their own metrics.
var noMetrics = metricnoop.NewMeterProvider()

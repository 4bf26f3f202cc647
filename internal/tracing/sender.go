package tracing

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

const (
	// MaxQueue is how many spans wait to be sent; batchSize is how many of them are sent at
	// once, and batchDelay how long they wait for each other.
	MaxQueue   = 4096
	batchSize  = 512
	batchDelay = time.Second
	// sendTime bounds one try to send a batch, and those that follow it.
	sendTime = 30 * time.Second
	// complaintPeriod is how often, at most, it is logged that spans are lost.
	complaintPeriod = time.Minute
)

// sender is an sdktrace.SpanExporter that never fails: it counts what is lost.
type sender struct {
	exporter   sdktrace.SpanExporter
	idle       func()
	waiting    atomic.Int64
	sent, lost prometheus.Counter
	log        *zap.Logger
	complaints rate.Sometimes
	// over is closed when there is no more time; ended when nothing is sent any more.
	over, ended chan struct{}
	cut         sync.Once
}

func newSender(ctx context.Context, cfg Config) (*sender, error) {
	exporter, idle, err := newExporter(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &sender{
		exporter: exporter, idle: idle, log: cfg.Log,
		complaints: rate.Sometimes{Interval: complaintPeriod},
		over:       make(chan struct{}), ended: make(chan struct{}),
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	counts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: cfg.Service + "_trace_spans_total",
		Help: "Spans that have ended, by result: sent to the collector, or lost because it was away or slow.",
	}, []string{"result"})
	s.sent, s.lost = counts.WithLabelValues("sent"), counts.WithLabelValues("lost")
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(counts); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return s, nil
}

// ExportSpans implements sdktrace.SpanExporter. The processor calls it one at a time.
func (s *sender) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer s.waiting.Add(-int64(len(spans)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-s.over:
			cancel()
		case <-done:
		}
	}()
	if err := s.exporter.ExportSpans(ctx, discreet(spans)); err != nil {
		s.lose(len(spans), err)
		return nil
	}
	s.sent.Add(float64(len(spans)))
	return nil
}

// Shutdown implements sdktrace.SpanExporter. The processor calls it last.
func (s *sender) Shutdown(ctx context.Context) error {
	defer close(s.ended)
	_ = s.exporter.Shutdown(ctx) // all has been sent, or is lost
	s.idle()
	return nil
}

func (s *sender) lose(count int, why error) {
	s.lost.Add(float64(count))
	s.complaints.Do(func() {
		s.log.Warn("Traces are lost; this is said once a minute at most, and counted by the metric of spans", zap.Int("spans", count), zap.Error(why))
	})
}

// queue is an sdktrace.SpanProcessor: the SDK's, that would lose spans without a word, but
// never has as many as it can hold.
type queue struct {
	sdktrace.SpanProcessor
	sender *sender
}

func newQueue(ctx context.Context, cfg Config) (*queue, error) {
	s, err := newSender(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &queue{sender: s, SpanProcessor: sdktrace.NewBatchSpanProcessor(s,
		sdktrace.WithMaxQueueSize(MaxQueue), sdktrace.WithMaxExportBatchSize(batchSize),
		sdktrace.WithBatchTimeout(batchDelay), sdktrace.WithExportTimeout(sendTime))}, nil
}

// end sends what waits, until ctx ends, and returns when nothing is sent any more.
func (q *queue) end(ctx context.Context) {
	s := q.sender
	stop := context.AfterFunc(ctx, func() { s.cut.Do(func() { close(s.over) }) })
	defer stop()
	_ = q.Shutdown(ctx) // the sender says what is lost
	<-s.ended
}

// OnEnd implements sdktrace.SpanProcessor.
func (q *queue) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if q.sender.waiting.Add(1) > MaxQueue {
		q.sender.waiting.Add(-1)
		q.sender.lose(1, errFull)
		return
	}
	q.SpanProcessor.OnEnd(span)
}

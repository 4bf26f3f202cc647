package kas

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errDraining ends streams when kas stops: the peer connects again, elsewhere or later.
var errDraining = status.Error(codes.Unavailable, "kas is shutting down")

// observer counts and times RPCs, logs those that failed by kas's own fault, and turns a
// panic into the failure of one RPC.
type observer struct {
	log     *zap.Logger
	started *prometheus.CounterVec
	handled *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newObserver(log *zap.Logger, registerer prometheus.Registerer) (*observer, error) {
	o := &observer{
		log: log,
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_grpc_started_total", Help: "RPCs that were begun, by method.",
		}, []string{"method"}),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_grpc_handled_total", Help: "RPCs that have ended, by method and code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kas_grpc_unary_seconds", Help: "How long unary RPCs took, by method.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"method"}),
	}
	for _, c := range []prometheus.Collector{o.started, o.handled, o.seconds} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return o, nil
}

func (o *observer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	o.started.WithLabelValues(info.FullMethod).Inc()
	began := time.Now()
	defer func() {
		err = o.ended(info.FullMethod, recover(), err)
		o.seconds.WithLabelValues(info.FullMethod).Observe(time.Since(began).Seconds())
	}()
	return handler(ctx, req)
}

func (o *observer) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	o.started.WithLabelValues(info.FullMethod).Inc()
	defer func() { err = o.ended(info.FullMethod, recover(), err) }()
	return handler(srv, stream)
}

// ended notes how an RPC ended and returns the error that the peer gets.
func (o *observer) ended(method string, panicked any, err error) error {
	if panicked != nil {
		o.log.Error("RPC panicked", zap.String("method", method), zap.Any("panic", panicked), zap.ByteString("stack", debug.Stack()))
		err = status.Error(codes.Internal, "kas failed at this call; its log says why")
	}
	code := status.Code(err)
	if err != nil && code == codes.Unknown {
		code = status.FromContextError(err).Code()
	}
	o.handled.WithLabelValues(method, code.String()).Inc()
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		if panicked == nil {
			o.log.Error("RPC failed", zap.String("method", method), zap.Error(err))
		}
	default:
		o.log.Debug("RPC ended", zap.String("method", method), zap.Stringer("code", code), zap.Error(err))
	}
	return err
}

// drain ends streams when kas stops.
type drain struct {
	mu     sync.Mutex
	began  bool
	nextID int
	open   map[int]context.CancelFunc
}

func newDrain() *drain { return &drain{open: make(map[int]context.CancelFunc)} }

// begin ends the contexts of all streams, now and from now on.
func (d *drain) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.began = true
	for _, cancel := range d.open {
		cancel()
	}
}

func (d *drain) enter(cancel context.CancelFunc) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.began {
		cancel()
		return func() {}
	}
	id := d.nextID
	d.nextID++
	d.open[id] = cancel
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.open, id)
	}
}

func (d *drain) hasBegun() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.began
}

// stream is a server interceptor.
func (d *drain) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	leave := d.enter(func() { cancel(errDraining) })
	defer leave()
	err := handler(srv, &drainedStream{ServerStream: stream, ctx: ctx})
	if err != nil && d.hasBegun() {
		return errDraining
	}
	return err
}

// drainedStream is a stream whose context ends when kas drains.
type drainedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // gRPC asks the stream for its context
}

// Context implements grpc.ServerStream.
func (s *drainedStream) Context() context.Context { return s.ctx }

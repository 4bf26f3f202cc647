// Package callmetrics measures the gRPC calls that a program makes. In goes a histogram's
// name; out come dial options that fill it, by method (without its service) and code, from
// the moment that a call is made until it has ended. A stream's time is its whole life, so
// that of a watch says little; that and how it ended counts all the same.
//
// Methods come from generated stubs, so that there are few. Nothing is started.
package callmetrics

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// DialOptions returns options for connections whose calls are to be measured in a histogram
// of that name, in seconds, which it registers.
func DialOptions(registerer prometheus.Registerer, name, help string) ([]grpc.DialOption, error) {
	c := &calls{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
	}, []string{"method", "code"})}
	if err := registerer.Register(c.seconds); err != nil {
		return nil, fmt.Errorf("register metric %s: %w", name, err)
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(c.unary), grpc.WithChainStreamInterceptor(c.stream)}, nil
}

type calls struct{ seconds *prometheus.HistogramVec }

func (c *calls) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	began := time.Now()
	err := invoke(ctx, method, req, reply, conn, options...)
	c.ended(method, began, err)
	return err
}

func (c *calls) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	began := time.Now()
	ended := grpc.OnFinish(func(err error) { c.ended(method, began, err) })
	// append must not write into the memory of the caller.
	return open(ctx, desc, conn, method, append(append(make([]grpc.CallOption, 0, len(options)+1), options...), ended)...)
}

func (c *calls) ended(method string, began time.Time, err error) {
	_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	c.seconds.WithLabelValues(name, s.Code().String()).Observe(time.Since(began).Seconds())
}

package private

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// replica is a connection to another kas. The Client's lock guards all but kind and conn.
type replica struct {
	kind
	conn *grpc.ClientConn
	// calls are going on; used is when there was a change of that.
	calls   int
	used    time.Time
	pinging bool
	// refused: it said last that it does not know this one's secret.
	refused bool
}

// ping asks a replica for a sign of life, and closes its connection where there is none.
func (c *Client) ping(ctx context.Context, one *replica) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PingTimeout)
	defer cancel()
	began := c.cfg.Clock.Now()
	_, err := grpc_health_v1.NewHealthClient(one.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	took := c.cfg.Clock.Since(began)

	c.mu.Lock()
	defer c.mu.Unlock()
	one.pinging = false
	refused := status.Code(err) == codes.Unauthenticated
	if other := c.replicas[one.other()]; refused && !one.refused && (other == nil || !other.refused) {
		c.log.Warn("Another kas refuses the calls of this one: do both have the same private_api.listen.authentication_secret_file, and the same time?",
			zap.String("url", one.url), zap.Error(err))
	}
	one.refused = refused
	switch status.Code(err) {
	case codes.OK:
		c.metrics.ping.Observe(took.Seconds())
	case codes.DeadlineExceeded:
		if c.replicas[one.kind] == one {
			c.metrics.lost.Inc()
			c.log.Warn("Another kas gives no sign of life; the connection to it is closed",
				zap.String("url", one.url), zap.Int("calls", one.calls), zap.Duration("waited", c.cfg.PingTimeout))
			c.drop(one)
		}
	default: // gRPC knows that it is not there, and tries again
	}
}

// conn is another kas.
type conn struct {
	client *Client
	url    string
}

// Invoke implements grpc.ClientConnInterface.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	one, err := c.client.enter(kind{c.url, true})
	if err != nil {
		return err
	}
	defer c.client.leave(one)
	return one.conn.Invoke(ctx, method, args, reply, options...) //nolint:wrapcheck // it is a status
}

// NewStream implements grpc.ClientConnInterface.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	one, err := c.client.enter(kind{c.url, !desc.ClientStreams && !desc.ServerStreams})
	if err != nil {
		return nil, err
	}
	left := grpc.OnFinish(func(error) { c.client.leave(one) })
	// append must not write into the memory of the caller.
	all := append(append(make([]grpc.CallOption, 0, len(options)+1), options...), left)
	return one.conn.NewStream(ctx, desc, method, all...) //nolint:wrapcheck // it is a status
}

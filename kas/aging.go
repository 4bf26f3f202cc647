package kas

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// errAged ends streams of a connection that has reached its age.
var errAged = status.Error(codes.Unavailable, "the connection has reached its age; the next one is on another")

// aging ends the streams of agents whose connection has reached its age, once gRPC has surely
// told the agent to open the next ones on another: at once what agentk merely keeps open, and
// a stream of the tunnel when the RPC on it has ended. So no RPC begins on a connection that
// has not long to go, and none is cut off before connectionGrace.
type aging struct{ age time.Duration }

// retirement is how old a connection is then. gRPC spreads the age by a tenth either way, and
// counts it from the end of the handshake.
func (a aging) retirement() time.Duration {
	return a.age + a.age/10 + min(handshakeTime, a.age/10) + time.Second
}

// grace is how long the streams of a connection may go on that gRPC takes for old.
func (a aging) grace() time.Duration { return connectionGrace + a.retirement() - (a.age - a.age/10) }

// bound returns the context of a stream, which ends with its connection's age, or by end, which
// is told why. end must be called.
func (a aging) bound(ctx context.Context) (_ context.Context, end context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	from, ok := peer.FromContext(ctx)
	if !ok || a.age == 0 {
		return ctx, cancel
	}
	connection, ok := from.Addr.(*origin)
	if !ok {
		return ctx, cancel
	}
	aged := time.AfterFunc(time.Until(connection.since.Add(a.retirement())), func() { cancel(errAged) })
	return ctx, func(why error) {
		aged.Stop()
		cancel(why)
	}
}

// ended returns the error that the agent gets where a stream has ended, whose context bound
// returned.
func (a aging) ended(ctx context.Context, method string, err error) error {
	switch {
	case err == nil || !errors.Is(context.Cause(ctx), errAged):
		return err
	case method == agentrpc.ReverseTunnel_Connect_FullMethodName:
		return nil // which agentk takes for a reason to open another one at once
	default:
		return errAged
	}
}

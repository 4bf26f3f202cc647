package kas

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
)

// watching is how it ends when the agent's configuration is watched by someone RoR does not know.
func watching(ctx context.Context, conn *grpc.ClientConn) codes.Code {
	stream, err := agentrpc.NewAgentConfigurationClient(conn).Watch(ctx, &agentrpc.WatchRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return status.Code(err)
}

func TestTokenRateLimit_ARateOfZeroIsNoLimit(t *testing.T) {
	r := startEach(t, `{address: "127.0.0.1:0"}, token_rate_limit: {refill_rate_per_second: 0, bucket_size: 1}`, `{address: "127.0.0.1:0"}`)
	conn := dial(t, r.Agent)
	for i := range 20 {
		if got := watching(bearing(t, "one"), conn); got != codes.Unauthenticated {
			t.Errorf("RPC %d ends with %s", i+1, got)
		}
	}
}

func TestTokenRateLimit_BoundsTheBearerOfOneToken(t *testing.T) {
	r := startEach(t, `{address: "127.0.0.1:0"}, token_rate_limit: {refill_rate_per_second: 0.001, bucket_size: 3}`, `{address: "127.0.0.1:0"}`)
	conn := dial(t, r.Agent)
	begin := func(ctx context.Context) codes.Code { return watching(ctx, conn) }
	for i, want := range []codes.Code{codes.Unauthenticated, codes.Unauthenticated, codes.Unauthenticated, codes.ResourceExhausted, codes.ResourceExhausted} {
		if got := begin(bearing(t, "one")); got != want {
			t.Errorf("RPC %d ends with %s, want %s", i+1, got, want)
		}
	}
	tunnel, err := agentrpc.NewReverseTunnelClient(conn).Connect(bearing(t, "one"))
	if err == nil {
		_, err = tunnel.Recv()
	}
	if got := status.Code(err); got != codes.Unauthenticated {
		t.Errorf("a stream of the tunnel, which is not one too many, ends with %s", got)
	}
	if got := begin(bearing(t, "another")); got != codes.Unauthenticated {
		t.Errorf("the bearer of another token is told %s", got)
	}
	for range 5 { // which is none of this limit's business
		if got := begin(t.Context()); got != codes.Unauthenticated {
			t.Errorf("who bears no token is told %s", got)
		}
		if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
	}
}

package kas

import (
	"context"
	"crypto/sha256"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/kascfg"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// tunnelFactor is how many times as many streams of the tunnel an agent token may begin: kas
// asks for them, when many want something of the agent at once.
const tunnelFactor = 10

// tokenLimit bounds how many RPCs the bearer of one agent token may begin. Those that bear
// none are refused by whom they are for.
type tokenLimit struct {
	cfg *kascfg.TokenBucket
	// rpcs are all but streams of the tunnel.
	rpcs, tunnel limiter
}

func newTokenLimit(cfg *kascfg.TokenBucket, m *many) *tokenLimit {
	return &tokenLimit{
		cfg:    cfg,
		rpcs:   m.limiter("agent-token", cfg),
		tunnel: m.limiter("agent-token-tunnel", bucket(tunnelFactor*cfg.GetRefillRatePerSecond(), tunnelFactor*cfg.GetBucketSize())),
	}
}

func (l *tokenLimit) check(ctx context.Context, method string) error {
	token, err := grpctool.BearerToken(ctx)
	if err != nil {
		return nil //nolint:nilerr // as explained
	}
	sum := sha256.Sum256([]byte(token))
	limiter := l.rpcs
	if method == agentrpc.ReverseTunnel_Connect_FullMethodName {
		limiter = l.tunnel
	}
	ok, retryAfter := limiter.Allow(ctx, string(sum[:]))
	if ok {
		return nil
	}
	return status.Errorf(codes.ResourceExhausted, "too many calls with this agent token, which may begin %v a second (agent.token_rate_limit of kas): try again in %s",
		l.cfg.GetRefillRatePerSecond(), retryAfter.Round(time.Millisecond))
}

// unary is a server interceptor.
func (l *tokenLimit) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := l.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

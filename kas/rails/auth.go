package rails

import (
	"context"
	"crypto/subtle"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

// Auth lets in calls that bear a token signed by RoR. Health checks and reflection, which
// tell nothing but that kas runs and what its API is, need none.
type Auth struct {
	// Secret signed the tokens.
	Secret []byte
	// Clock says whether a token is still good.
	Clock clock.PassiveClock

	// last is the token that was found good last: RoR makes them once a second at the
	// most, and to check one costs as much as to answer some questions.
	last atomic.Pointer[vouched]
}

// vouched is a token that is good for vouchFor after its check.
type vouched struct {
	token   string
	checked time.Time
}

// vouchFor adds to the few seconds by which clocks may differ anyway.
const vouchFor = time.Second

// open are the services that need no token.
var open = []string{"/grpc.health.v1.Health/", "/grpc.reflection."}

// Unary is a server interceptor.
func (a *Auth) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := a.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is a server interceptor.
func (a *Auth) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := a.check(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

func (a *Auth) check(ctx context.Context, method string) error {
	for _, prefix := range open {
		if strings.HasPrefix(method, prefix) {
			return nil
		}
	}
	token, err := grpctool.BearerToken(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	now := a.Clock.Now()
	if known := a.last.Load(); known != nil && now.Sub(known.checked).Abs() < vouchFor &&
		subtle.ConstantTimeCompare([]byte(known.token), []byte(token)) == 1 {
		return nil
	}
	if err := jwtauth.Verify(a.Secret, token, jwtauth.IssuerGitlab, jwtauth.AudienceKas, now); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	a.last.Store(&vouched{token: token, checked: now})
	return nil
}

package rails

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

// Auth lets in calls that bear a token signed by RoR. Health checks and reflection, which
// tell nothing but that kas runs and what its API is, need none.
type Auth struct{ verifier *jwtauth.Verifier }

// NewAuth returns an Auth for tokens that were signed with the secret and are good by the clock.
func NewAuth(secret []byte, c clock.PassiveClock) *Auth {
	return &Auth{jwtauth.NewVerifier(secret, jwtauth.IssuerGitlab, jwtauth.AudienceKas, c)}
}

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
	if err := a.verifier.Verify(token); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	return nil
}

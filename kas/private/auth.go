package private

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/jwtauth"
)

// complaintPeriod is how often, at most, a refusal is logged.
const complaintPeriod = time.Minute

// auth lets in who shares the secret.
type auth struct {
	verifier *jwtauth.Verifier
	clock    clock.PassiveClock
	log      *zap.Logger

	mu         sync.Mutex
	complained time.Time
}

func (a *auth) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := a.check(ctx); err != nil {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(keyNotBegun, "1")) // its absence is safe
		return nil, err
	}
	return handler(ctx, req)
}

func (a *auth) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := a.check(stream.Context()); err != nil {
		return refuse(stream, err)
	}
	return handler(srv, stream)
}

func (a *auth) check(ctx context.Context) error {
	token, err := grpctool.BearerToken(ctx)
	if err == nil {
		err = a.verifier.Verify(token)
	}
	if err == nil {
		return nil
	}
	a.complain(ctx, err)
	return status.Error(codes.Unauthenticated, err.Error())
}

// complain logs a refusal: an operator's mistake probably, which repeats all the time.
func (a *auth) complain(ctx context.Context, why error) {
	now := a.clock.Now()
	a.mu.Lock()
	soon := !a.complained.IsZero() && now.Sub(a.complained) < complaintPeriod
	if !soon {
		a.complained = now
	}
	a.mu.Unlock()
	if soon {
		return
	}
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	a.log.Warn("A call to the private API was refused: do all replicas of kas have the same private_api.listen.authentication_secret_file, and the same time?",
		zap.String("from", from), zap.Error(why))
}

// refuse ends an RPC that has not begun.
func refuse(stream grpc.ServerStream, err error) error {
	stream.SetTrailer(metadata.Pairs(keyNotBegun, "1"))
	return err
}

package agentk

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/retry"
)

// reopenPolicies is how long to wait before a stream is opened again.
type reopenPolicies struct {
	// lost: kas went away. The connection itself is retried by grpc, and a stream
	// waits for it, so this is only about kas ending streams.
	lost retry.Policy
	// refused: kas does not want this stream, which takes a person to mend.
	refused retry.Policy
}

func defaultReopenPolicies() reopenPolicies {
	return reopenPolicies{
		lost:    retry.Policy{Initial: 200 * time.Millisecond, Max: 2 * time.Second, ResetAfter: 5 * time.Second},
		refused: retry.Policy{Initial: 2 * time.Second, Max: 20 * time.Second, ResetAfter: time.Minute},
	}
}

// errToken marks a token that cannot be read.
var errToken = errors.New("cannot read token")

// refusal says what a person can do about a stream that kas, or the token file,
// refuses. Empty: err is not of that kind, and passes by itself.
func refusal(err error) string {
	if errors.Is(err, errToken) {
		return "the token cannot be read: check --token-file"
	}
	switch status.Code(err) {
	case codes.Unauthenticated:
		return "token unknown or revoked: create a new one for this agent and put it into --token-file"
	case codes.PermissionDenied:
		return "this agent may not use kas: ask who runs the server"
	case codes.NotFound:
		return "no such project, or this agent may not read it: check the project's id in the agent's configuration"
	case codes.InvalidArgument:
		return "kas does not accept this configuration of the project"
	case codes.Unimplemented:
		return "kas is too old for this agentk, or is no kas at all: check --kas-address"
	default:
		return ""
	}
}

// keepOpen calls open, which opens a stream and works until it ends, again and again
// until ctx ends. What makes it end is logged here, and told to ended.
func keepOpen(ctx context.Context, log *zap.Logger, policies reopenPolicies, open func(context.Context) error, ended func(err error)) {
	try := func(ctx context.Context) error {
		err := open(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is no failure
		}
		if err == nil {
			err = io.EOF // kas ended the stream, which is no error to it
		}
		ended(err)
		if refusal(err) != "" {
			return retry.Permanent(err)
		}
		return err
	}
	lost := func(err error, wait time.Duration) {
		log.Info("Stream to kas ended, opening it again", zap.Error(err), zap.Duration("wait", wait))
	}
	refused := func(err error, wait time.Duration) {
		log.Error("Stream to kas refused: "+refusal(err), zap.Error(err), zap.Duration("retry_in", wait))
	}
	// Both ends only with ctx: an open that was cancelled returns nil above.
	_ = retry.Do(ctx, policies.refused, func(ctx context.Context) error {
		return retry.Do(ctx, policies.lost, try, lost)
	}, refused)
}

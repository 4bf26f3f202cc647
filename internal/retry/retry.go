// Package retry runs an operation until it succeeds or its context ends, with the
// exponential, jittered backoff of cenkalti/backoff.
package retry

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Policy is how long to wait between tries.
type Policy struct {
	// Initial is the mean wait after the first failure.
	Initial time.Duration
	// Max is the longest mean wait.
	Max time.Duration
	// ResetAfter: a try that lasted at least this long counts as a success, so
	// that the next wait is Initial again. Zero: never.
	ResetAfter time.Duration
}

// Jitter is how far a wait may be from its mean, as a part of it. A half spreads
// the reconnects of many clients over as long as the mean wait itself.
const Jitter = 0.5

// Do calls op until it returns nil, a Permanent error, or ctx ends. Before each
// wait, notify (which may be nil) is told the error and how long the wait is. It
// returns nil, the permanent error, or ctx's error.
func Do(ctx context.Context, p Policy, op func(context.Context) error, notify func(error, time.Duration)) error {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.Initial),
		backoff.WithMaxInterval(p.Max),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(Jitter),
		backoff.WithMaxElapsedTime(0), // for ever
	)
	timed := func() error {
		began := time.Now()
		err := op(ctx)
		if p.ResetAfter > 0 && time.Since(began) >= p.ResetAfter {
			b.Reset()
		}
		if err != nil && ctx.Err() != nil {
			return backoff.Permanent(ctx.Err())
		}
		return err
	}
	if notify == nil {
		notify = func(error, time.Duration) {}
	}
	err := backoff.RetryNotify(timed, backoff.WithContext(b, ctx), notify)
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		return permanent.Err
	}
	return err //nolint:wrapcheck // it is op's own error or the context's
}

// Permanent marks an error that no further try can mend.
func Permanent(err error) error {
	return backoff.Permanent(err)
}

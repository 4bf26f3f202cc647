package tunnel

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/retry"
)

// cause is why a stream failed, as far as the wait for the next depends on it.
type cause int

const (
	lost cause = iota
	refused
	old
)

func causeOf(err error) cause {
	switch status.Code(err) {
	case codes.Unimplemented:
		return old
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.ResourceExhausted, codes.NotFound:
		return refused
	default:
		return lost
	}
}

// keepOpen keeps as many streams open as kas wants until ctx ends.
func (s *Server) keepOpen(ctx context.Context) {
	keep := func(ctx context.Context) error {
		err := s.keep(ctx)
		if causeOf(err) != lost {
			return retry.Permanent(err)
		}
		return err
	}
	unlessRefused := func(ctx context.Context) error {
		err := retry.Do(ctx, s.cfg.Lost, keep, s.sayLost)
		if causeOf(err) == old {
			return retry.Permanent(err)
		}
		return err
	}
	unlessOld := func(ctx context.Context) error {
		return retry.Do(ctx, s.cfg.Refused, unlessRefused, s.sayRefused)
	}
	said := false
	sayOld := func(err error, wait time.Duration) {
		say := s.cfg.Log.Debug
		if !said {
			say, said = s.cfg.Log.Info, true
		}
		say("kas has no tunnel, asking again now and then", zap.Error(err), zap.Duration("wait", wait))
	}
	// Ends only with ctx: keep returns nil then, and what fails is tried again.
	_ = retry.Do(ctx, s.cfg.Old, unlessOld, sayOld)
}

func (s *Server) sayLost(err error, wait time.Duration) {
	s.cfg.Log.Info("Tunnel stream ended, opening it again", zap.Error(err), zap.Duration("wait", wait))
}

// sayRefused says no more than that: what a person can do about it is said where the
// configuration stream is refused for the same reason.
func (s *Server) sayRefused(err error, wait time.Duration) {
	s.cfg.Log.Warn("Tunnel stream refused by kas", zap.Error(err), zap.Duration("retry_in", wait))
}

// keep opens what is missing until a stream fails, and returns why; or nil when ctx ends.
// The streams that it opened go on without it.
func (s *Server) keep(ctx context.Context) error {
	s.pool.forgive()
	for ctx.Err() == nil {
		for range s.pool.take() {
			s.goroutines.Add(1)
			go s.open(ctx)
		}
		select {
		case <-s.pool.changed:
		case err := <-s.pool.failed:
			return err
		case <-ctx.Done():
		}
	}
	return nil
}

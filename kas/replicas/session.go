package replicas

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
	"golang.org/x/sync/errgroup"
)

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
	// farewellTime bounds how long this replica takes back what it said when it ends.
	farewellTime = time.Second
)

// awayReplies begin error replies that mean that Redis cannot be used now.
var awayReplies = []string{
	"LOADING", "READONLY", "OOM", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF",
	"BUSY", "NOREPLICAS", "TRYAGAIN", "UNKILLABLE",
}

// session is a connection to Redis that works, until it fails once.
type session struct {
	r          *Replicas
	client     rueidis.Client
	subscriber rueidis.DedicatedClient // the connection that messages come on
	deaf       <-chan error            // tells when it has ended
	written    map[int64]struct{}      // agents of this replica that are in Redis; of the goroutine that registers
	ended      chan struct{}           // closed with the first failure
	once       sync.Once
	failure    error // why; valid after ended
}

// over tells whether the session has failed.
func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// fail ends the session. The first reason counts.
func (s *session) fail(err error) {
	s.once.Do(func() {
		s.failure = err
		close(s.ended)
	})
}

// call asks Redis something, which takes WriteTimeout at most. The error wraps ErrAway where
// the session is over by it, or was.
func (s *session) call(ctx context.Context, what string, work func(context.Context) error) error {
	if s.over() {
		return fmt.Errorf("%w: %w", ErrAway, s.failure)
	}
	bounded, cancel := context.WithTimeout(ctx, s.r.cfg.Redis.WriteTimeout)
	defer cancel()
	began := s.r.cfg.Clock.Now()
	err := work(bounded)
	s.r.metrics.seconds.WithLabelValues(what).Observe(s.r.cfg.Clock.Since(began).Seconds())
	result, err := s.judge(ctx, what, err)
	s.r.metrics.calls.WithLabelValues(what, result).Inc()
	return err
}

// judge tells what an error means for the session.
func (s *session) judge(ctx context.Context, what string, err error) (string, error) {
	reply, isReply := rueidis.IsRedisErr(err)
	switch {
	case err == nil:
		return "ok", nil
	case isReply && !meansAway(reply):
		return "refused", fmt.Errorf("Redis: %s: %w", what, err)
	case ctx.Err() != nil && !isReply:
		return "left", fmt.Errorf("Redis: %s: %w", what, context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%s: no answer within %s", what, s.r.cfg.Redis.WriteTimeout)
	default:
		err = fmt.Errorf("%s: %w", what, err)
	}
	s.fail(err)
	return "failed", fmt.Errorf("%w: %w", ErrAway, err)
}

func meansAway(reply *rueidis.RedisError) bool {
	word, _, _ := strings.Cut(reply.Error(), " ")
	return slices.Contains(awayReplies, word)
}

// script runs a script.
func (s *session) script(ctx context.Context, what string, script *rueidis.Lua, keys, args []string) (rueidis.RedisResult, error) {
	var result rueidis.RedisResult
	err := s.call(ctx, what, func(ctx context.Context) error {
		result = script.Exec(ctx, s.client, keys, args)
		return result.Error()
	})
	return result, err
}

// multi sends commands together. The error is the first of theirs.
func (s *session) multi(ctx context.Context, what string, commands ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	if len(commands) == 0 {
		return nil, nil
	}
	var results []rueidis.RedisResult
	err := s.call(ctx, what, func(ctx context.Context) error {
		results = s.client.DoMulti(ctx, commands...)
		for _, result := range results {
			if err := result.Error(); err != nil && !rueidis.IsRedisNil(err) {
				return err //nolint:wrapcheck // judge does
			}
		}
		return nil
	})
	return results, err
}

// keepSession has sessions, one after another, until ctx ends.
func (r *Replicas) keepSession(ctx context.Context) {
	told := &reporter{log: r.log, clock: r.cfg.Clock}
	defer r.away(errors.New("this kas ends"))
	wait := firstRetry
	for {
		began := r.cfg.Clock.Now()
		err := r.serve(ctx, told.back)
		r.away(err)
		if ctx.Err() != nil {
			return
		}
		told.away(err)
		if r.cfg.Clock.Since(began) > 2*lastRetry {
			wait = firstRetry
		}
		if !pause(ctx, r.cfg.Clock, jitter(wait)) {
			return
		}
		wait = min(2*wait, lastRetry)
	}
}

// serve is one session. It tells why it is over, or why there was none.
func (r *Replicas) serve(ctx context.Context, established func()) error {
	c := &connections{network: r.cfg.Redis.Network}
	defer c.close()
	client, err := connect(ctx, r.cfg.Redis, c)
	if err != nil {
		return err
	}
	s := &session{r: r, client: client, ended: make(chan struct{})}
	defer s.close(c)
	abandon := context.AfterFunc(ctx, c.close)
	err = s.begin(ctx)
	abandon()
	switch {
	case s.over():
		return s.failure
	case err != nil:
		return err
	}
	established()
	return s.run(ctx)
}

// close lets go of everything.
func (s *session) close(c *connections) {
	c.close() // first, so that the library waits for nothing
	if s.subscriber != nil {
		s.subscriber.Close()
	}
	s.client.Close()
}

// begin makes this replica known. Only then is the session of use to others.
func (s *session) begin(ctx context.Context) error {
	if err := s.subscribe(ctx); err != nil {
		return err
	}
	if err := s.announce(ctx); err != nil {
		return err
	}
	r := s.r
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	r.metrics.up.Set(1)
	r.where.back()
	r.bus.missed()
	r.leases.retry()
	return nil
}

// away notes that there is no session any more.
func (r *Replicas) away(reason error) {
	r.mu.Lock()
	r.session, r.reason = nil, reason
	r.mu.Unlock()
	r.metrics.up.Set(0)
	r.where.away()
	r.bus.away()
	r.leases.away()
}

// run works until the session fails or ctx ends, which is nil.
func (s *session) run(ctx context.Context) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	for _, job := range []func(context.Context) error{s.register, s.publish, s.follow, s.renew} {
		g.Go(func() error {
			if err := job(working); err != nil {
				s.fail(err)
			}
			return nil
		})
	}
	var err error
	select {
	case <-s.ended:
		err = s.failure
	case <-ctx.Done():
	}
	stop()
	_ = g.Wait() // nothing fails
	if ctx.Err() != nil && !s.over() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
		defer cancel()
		s.farewell(last)
		return nil
	}
	return err
}

package replicas

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"
	"k8s.io/utils/clock"
)

// reporter logs that Redis is away, each kind of reason once while it is, and that it is back.
type reporter struct {
	log   *zap.Logger
	clock clock.PassiveClock
	since time.Time // zero: it is not away
	said  map[string]bool
}

func (l *reporter) away(err error) {
	if l.since.IsZero() {
		l.since, l.said = l.clock.Now(), map[string]bool{}
	}
	kind := kindOf(err)
	if l.said[kind] {
		return
	}
	l.said[kind] = true
	l.log.Warn("Redis is away: this kas goes on alone and tries again", zap.Error(err))
}

func (l *reporter) back() {
	if l.since.IsZero() {
		l.log.Info("Connected to Redis")
		return
	}
	l.log.Info("Redis is back", zap.Duration("away", l.clock.Since(l.since)))
	l.since = time.Time{}
}

// kindOf is the word that an error reply begins with, or empty.
func kindOf(err error) string {
	var reply *rueidis.RedisError
	if errors.As(err, &reply) {
		word, _, _ := strings.Cut(reply.Error(), " ")
		return word
	}
	return ""
}

// jitter is d, half more or less.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // it spreads, it keeps no secret
}

// pause waits. It is false when ctx ended first.
func pause(ctx context.Context, c clock.Clock, d time.Duration) bool {
	timer := c.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

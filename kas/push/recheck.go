package push

import (
	"context"
	"math/rand/v2"
	"time"

	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// recheckJitter spreads the rechecks of many streams.
const recheckJitter = 0.2

// rechecks ask RoR again about a stream's agent and its project, one at a time. The
// stream's own goroutine uses it.
type rechecks struct {
	stream *stream
	// timer fires when the next is due.
	timer clock.Timer
	// results has room for one.
	results chan *access
	// under way, and to be followed by another: it may have asked too early.
	underWay, again bool
}

func (s *stream) newRechecks() *rechecks {
	return &rechecks{
		stream: s, timer: s.server.clock.NewTimer(s.untilRecheck()), results: make(chan *access, 1),
	}
}

// begin asks in a goroutine of its own: RoR may be slow, and sending goes on meanwhile.
func (r *rechecks) begin(ctx context.Context) {
	if r.underWay {
		r.again = true
		return
	}
	r.underWay = true
	r.timer.Stop()
	r.stream.server.streams.Add(1)
	go func() {
		defer r.stream.server.streams.Done()
		r.results <- r.stream.recheck(ctx)
	}()
}

// ended is to be called with every result.
func (r *rechecks) ended(ctx context.Context) {
	r.underWay = false
	if r.again {
		r.again = false
		r.begin(ctx)
		return
	}
	r.timer.Reset(r.stream.untilRecheck())
}

func (s *stream) untilRecheck() time.Duration {
	//nolint:gosec // spreads load, keeps no secret
	return time.Duration(float64(s.server.config.RecheckPeriod) * (1 - recheckJitter*rand.Float64()))
}

// access is what RoR says of an agent and its project.
type access struct {
	project gitlabapi.ProjectInfo
	err     error
}

func (s *stream) recheck(ctx context.Context) *access {
	if _, err := s.server.access.Agent(ctx, s.token); err != nil {
		return &access{err: err}
	}
	project, err := s.server.access.Project(ctx, s.token, s.wish.projectID)
	return &access{project: project, err: err}
}

// apply acts on a recheck: access may be lost, or the repository have moved.
func (s *stream) apply(ctx context.Context, result *access) error {
	switch {
	case refused(result.err):
		return s.noAccess(result.err)
	case result.err == nil: // or RoR is away, and what it said last stands
		s.project = result.project
		if keyOf(s.repository(), s.wish) != s.feed.key {
			before := s.feed
			s.feed = s.server.feeds.join(ctx, s.repository(), s.wish)
			s.server.feeds.leave(before)
		}
	}
	return nil
}

package gitaly

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kas-agentk/kas/internal/gitrepo"
)

const (
	// pollJitter spreads the polls of many refs: how much earlier than after the period
	// a poll may begin, as a part of it. None begins later: people wait for it.
	pollJitter = 0.1
	// minPause is how long a poller rests at least, as a part of the period, where
	// Gitaly takes long to answer.
	minPause = 0.5
	// firstRetry is how soon a failed poll is tried again; later ones wait longer,
	// up to the period.
	firstRetry = 250 * time.Millisecond
	// patience is how many polls in a row must fail before followers of a ref that
	// was seen are told: a connection may break at any time.
	patience = 2
)

// follower is one call of Follow.
type follower struct {
	period time.Duration
	// notify is called with the poller's lock held, so that nothing overtakes anything.
	notify func(gitrepo.Revision)
}

// poller follows one ref.
type poller struct {
	refs   *Refs
	key    refKey
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{}
	doubts chan struct{}

	// Owned by run.
	turn       Turn
	failures   int
	commitID   string
	detectedAt time.Time
	// traceparent is that of the poll that found commitID.
	traceparent string

	// causes are why the next poll is due, where somebody has said so.
	causes causes

	mu        sync.Mutex
	repo      gitrepo.Repository
	followers map[*follower]struct{}
	period    time.Duration
	latest    *gitrepo.Revision
	// state is what the last poll that did not fail found: a commit, or troubled; heard is
	// the state that another replica told last. Empty: none yet.
	state, heard string
	// blind: the others have been told that polls fail.
	blind bool
}

func newPoller(refs *Refs, key refKey, repo gitrepo.Repository) *poller {
	return &poller{
		refs:      refs,
		key:       key,
		name:      key.name(),
		repo:      repo,
		done:      make(chan struct{}),
		wake:      make(chan struct{}, 1),
		doubts:    make(chan struct{}, 1),
		followers: make(map[*follower]struct{}),
	}
}

// add gives the follower what is known. repo replaces what is known of the
// repository: RoR may have a new token for it.
func (p *poller) add(repo gitrepo.Repository, f *follower) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.repo = repo
	p.followers[f] = struct{}{}
	if p.latest != nil {
		known := *p.latest
		known.Traceparent = "" // it is no news
		f.notify(known)
	}
	if before := p.period; before == 0 || f.period < before {
		p.period = f.period
		if before != 0 {
			p.poke() // the wait under way is too long
		}
	}
}

// remove tells whether f was the last follower.
func (p *poller) remove(f *follower) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.followers, f)
	p.period = 0
	for other := range p.followers {
		if p.period == 0 || other.period < p.period {
			p.period = other.period
		}
	}
	return len(p.followers) == 0
}

func (p *poller) poke() {
	select {
	case p.wake <- struct{}{}:
	default: // a poll is due already
	}
}

func (p *poller) repository() gitrepo.Repository {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.repo
}

func (p *poller) run(ctx context.Context) {
	defer close(p.done)
	p.turn = p.takeTurn()
	defer p.turn.End()
	for {
		began := p.refs.clock.Now()
		p.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if p.settled() {
			<-ctx.Done()
			return
		}
		if !p.pause(ctx.Done(), p.refs.clock.Since(began)) {
			return
		}
	}
}

// settled tells whether what is known can never change: a commit stays a commit.
func (p *poller) settled() bool {
	return p.key.ref.Commit != "" && p.commitID != ""
}

// wait returns how long to wait until the next poll, after one that took so long. leave:
// polling is left to another replica.
func (p *poller) wait(took time.Duration, leave bool) time.Duration {
	p.mu.Lock()
	wait := p.period
	p.mu.Unlock()
	if leave {
		wait *= safety
	}
	if p.failures > 0 {
		const maxShift = 16
		took = 0 // it may be overloaded
		wait = min(wait, firstRetry<<min(p.failures-1, maxShift))
	}
	//nolint:gosec // spreads load, keeps no secret
	wait = time.Duration(float64(wait) * (1 - pollJitter*rand.Float64()))
	return max(wait-took, time.Duration(minPause*float64(wait)))
}

// poll asks once, and tells the followers what is new.
func (p *poller) poll(ctx context.Context) {
	causes, began := p.causes.take(), p.refs.clock.Now()
	asking, cancel := context.WithTimeout(ctx, p.refs.timeout)
	ref, commitID, err := p.refs.pool.lookup(asking, p.repository(), p.key.ref)
	cancel()
	if ctx.Err() != nil {
		return
	}
	took := p.refs.clock.Since(began)
	result := "unmoved"
	switch {
	case gitrepo.IsPassing(err):
		p.failures++
		p.causes.giveBack(causes) // the next one may find it
		p.refs.polled("error", took)
		if p.failures >= patience {
			p.failed()
		}
		if p.failures >= patience || p.unseen() {
			p.publish(gitrepo.Revision{Ref: ref, Problem: err})
		}
		return
	case err != nil:
		result = "problem"
		p.commitID = ""
		p.found(troubled)
		p.publish(gitrepo.Revision{Ref: ref, Problem: err})
	default:
		if commitID != p.commitID {
			result = "moved"
			p.commitID, p.detectedAt = commitID, p.refs.clock.Now()
			p.traceparent = p.trace(ctx, causes, began, ref)
		}
		p.found(commitID)
		p.publish(gitrepo.Revision{Ref: ref, CommitID: commitID, DetectedAt: p.detectedAt, Traceparent: p.traceparent})
	}
	p.failures = 0
	p.refs.polled(result, took)
}

// polled counts a poll.
func (r *Refs) polled(result string, took time.Duration) {
	r.polls.WithLabelValues(result).Inc()
	r.seconds.WithLabelValues(result).Observe(took.Seconds())
}

func (p *poller) unseen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest == nil
}

// publish tells all followers of a revision, unless they know it.
func (p *poller) publish(revision gitrepo.Revision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.latest != nil && p.latest.Ref == revision.Ref && p.latest.CommitID == revision.CommitID && sameProblem(p.latest.Problem, revision.Problem) {
		return
	}
	p.latest = &revision
	for f := range p.followers {
		f.notify(revision)
	}
}

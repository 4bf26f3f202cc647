package tunnel

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"
)

// maxHeadroom is how long before its deadline an RPC stops waiting for a stream: whoever
// asked is to hear why. It is at most a tenth of the time that there is.
const maxHeadroom = 500 * time.Millisecond

// waiter is an RPC that waits for a stream.
type waiter struct {
	service string
	// roams: it looks elsewhere as soon as no process here offers the service.
	roams bool
	// ready has room for the only thing that comes.
	ready chan lent
}

// lent is a stream for one RPC, or why there is none.
type lent struct {
	stream *stream
	err    error
}

// errLookAgain is for an RPC whose agent may have come elsewhere, or gone from here.
var errLookAgain = errors.New("the agent may be elsewhere")

// take lends a stream of an agent, of a process that offers the service. Its errors are
// statuses. Whoever takes a stream gives it back or ends it.
func (p *pool) take(ctx context.Context, agentID int64, service string) (*stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	st, w, err := p.takeOrQueue(agentID, service, false)
	if w == nil {
		return st, err
	}
	patience := p.patience(ctx)
	defer patience.end()
	return p.wait(ctx, agentID, w, patience, nil, nil)
}

// takeOrQueue lends an idle stream, or queues a waiter. One that roams is queued though no
// process here offers the service.
func (p *pool) takeOrQueue(agentID int64, service string, roams bool) (*stream, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st, here, err := p.takeIdle(agentID, service)
	if st != nil || err != nil {
		return st, nil, err
	}
	if here.present && !here.offered && !roams {
		return nil, nil, tooOld(agentID, service)
	}
	a := p.agent(agentID)
	if len(a.waiting) >= p.cfg.MaxWaiting {
		return nil, nil, status.Errorf(codes.ResourceExhausted, "%d calls wait for agent %d already", len(a.waiting), agentID)
	}
	w := &waiter{service: service, roams: roams, ready: make(chan lent, 1)}
	a.waiting = append(a.waiting, w)
	return nil, w, nil
}

// standing is how an agent stands here.
type standing struct {
	// present: a process of it is connected; offered: one that offers the service.
	present, offered bool
}

// takeIdle lends an idle stream, if there is one. The lock is held.
func (p *pool) takeIdle(agentID int64, service string) (st *stream, here standing, err error) {
	if p.closed {
		return nil, here, errDraining
	}
	a := p.agents[agentID]
	if a == nil {
		return nil, here, nil
	}
	here.present = len(a.processes) > 0
	for _, one := range a.processes {
		if !one.offers(service) {
			continue
		}
		here.offered = true
		if n := len(one.idle); n > 0 {
			st := one.idle[n-1]
			one.idle[n-1] = nil
			one.idle = one.idle[:n-1]
			st.idle = false
			p.metrics.idle.Dec()
			p.metrics.busy.Inc()
			p.lend(st)
			return st, here, nil
		}
	}
	return nil, here, nil
}

// takeNow lends an idle stream, if there is one.
func (p *pool) takeNow(agentID int64, service string) (*stream, standing, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeIdle(agentID, service)
}

// patience is how long an RPC waits. Of one that has a deadline it ends shortly before; of
// one that has none, after Config.ConnectWait unless its agent is connected.
type patience struct {
	waiting context.Context //nolint:containedctx // it is the caller's, for one function
	cancel  context.CancelFunc
	timer   clock.Timer
	over    <-chan time.Time
}

func (p *pool) patience(ctx context.Context) *patience {
	deadline, ok := ctx.Deadline()
	if !ok {
		timer := p.cfg.Clock.NewTimer(p.cfg.ConnectWait)
		return &patience{waiting: ctx, timer: timer, over: timer.C()}
	}
	headroom := min(time.Until(deadline)/10, maxHeadroom)
	early, cancel := context.WithDeadline(ctx, deadline.Add(-headroom))
	return &patience{waiting: early, cancel: cancel}
}

// end frees what patience uses. It may be nil.
func (p *patience) end() {
	if p == nil {
		return
	}
	if p.cancel != nil {
		p.cancel()
	}
	if p.timer != nil {
		p.timer.Stop()
	}
}

// wait waits for a stream; errLookAgain: for one that roams, or one of the channels, which
// may be nil.
func (p *pool) wait(ctx context.Context, agentID int64, w *waiter, patience *patience, news <-chan struct{}, again <-chan time.Time) (*stream, error) {
	for {
		select {
		case l := <-w.ready:
			return l.stream, l.err
		case <-news:
			return p.lookAgain(ctx, agentID, w)
		case <-again:
			return p.lookAgain(ctx, agentID, w)
		case <-patience.waiting.Done():
			return p.giveUp(ctx, patience.waiting.Err(), agentID, w)
		case <-patience.over:
			if st, err := p.giveUpUnlessConnected(ctx, agentID, w); st != nil || err != nil {
				return st, err
			}
			patience.timer.Reset(p.cfg.ConnectWait) // it is there, and busy: the caller decides
		}
	}
}

// lookAgain takes a waiter out, so that its RPC can look for its agent again.
func (p *pool) lookAgain(ctx context.Context, agentID int64, w *waiter) (*stream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, late := p.unqueue(ctx, agentID, w); late {
		return l.stream, l.err
	}
	return nil, errLookAgain
}

// giveUp takes a waiter out, for an error of its context.
func (p *pool) giveUp(ctx context.Context, why error, agentID int64, w *waiter) (*stream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, late := p.unqueue(ctx, agentID, w); late {
		return l.stream, l.err
	}
	switch a := p.agents[agentID]; {
	case !errors.Is(why, context.DeadlineExceeded):
		return nil, status.FromContextError(why).Err()
	case a == nil || len(a.processes) == 0:
		return nil, notConnected(agentID)
	default:
		return nil, status.Errorf(codes.DeadlineExceeded, "all streams of agent %d are busy", agentID)
	}
}

// giveUpUnlessConnected takes a waiter out if its agent is not connected.
func (p *pool) giveUpUnlessConnected(ctx context.Context, agentID int64, w *waiter) (*stream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.agents[agentID]; a != nil && len(a.processes) > 0 {
		return nil, nil
	}
	if l, late := p.unqueue(ctx, agentID, w); late {
		return l.stream, l.err
	}
	return nil, notConnected(agentID)
}

// unqueue takes a waiter out, or says that it is too late for that: what has come
// meanwhile goes to the caller if ctx goes on. The lock is held.
func (p *pool) unqueue(ctx context.Context, agentID int64, w *waiter) (l lent, late bool) {
	select {
	case l = <-w.ready:
		if l.stream != nil && ctx.Err() != nil {
			p.give(l.stream)
			l = lent{err: status.FromContextError(ctx.Err()).Err()}
		}
		return l, true
	default:
	}
	a := p.agents[agentID]
	a.waiting = slices.DeleteFunc(a.waiting, func(o *waiter) bool { return o == w })
	p.forget(a)
	return lent{}, false
}

// refuse tells those who wait for a service that no process offers. Who does not roam waits
// on where there is none at all. The lock is held.
func (p *pool) refuse(a *agent) {
	a.waiting = slices.DeleteFunc(a.waiting, func(w *waiter) bool {
		switch {
		case slices.ContainsFunc(a.processes, func(one *process) bool { return one.offers(w.service) }):
			return false
		case w.roams:
			w.ready <- lent{err: errLookAgain}
			return true
		case len(a.processes) == 0:
			return false
		default:
			w.ready <- lent{err: tooOld(a.id, w.service)}
			return true
		}
	})
}

func notConnected(agentID int64) error {
	return status.Errorf(codes.Unavailable, "agent %d is not connected", agentID)
}

func tooOld(agentID int64, service string) error {
	return status.Errorf(codes.Unimplemented, "the agentk of agent %d is too old for this: it does not offer %s", agentID, service)
}

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
const maxHeadroom = 100 * time.Millisecond

// waiter is an RPC that waits for a stream.
type waiter struct {
	service string
	// ready has room for the only thing that comes.
	ready chan lent
}

// lent is a stream for one RPC, or why there is none.
type lent struct {
	stream *stream
	err    error
}

// take lends a stream of an agent, of a process that offers the service. Its errors are
// statuses. Whoever takes a stream gives it back or ends it.
func (p *pool) take(ctx context.Context, agentID int64, service string) (*stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	st, w, err := p.takeOrQueue(agentID, service)
	if w == nil {
		return st, err
	}
	return p.wait(ctx, agentID, w)
}

func (p *pool) takeOrQueue(agentID int64, service string) (*stream, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errDraining
	}
	a := p.agents[agentID]
	if a != nil {
		offered := false
		for _, one := range a.processes {
			if !one.offers(service) {
				continue
			}
			offered = true
			if n := len(one.idle); n > 0 {
				st := one.idle[n-1]
				one.idle[n-1] = nil
				one.idle = one.idle[:n-1]
				st.idle = false
				p.metrics.idle.Dec()
				p.metrics.busy.Inc()
				p.lend(st)
				return st, nil, nil
			}
		}
		if !offered && len(a.processes) > 0 {
			return nil, nil, tooOld(agentID, service)
		}
		if len(a.waiting) >= p.cfg.MaxWaiting {
			return nil, nil, status.Errorf(codes.ResourceExhausted, "%d calls wait for agent %d already", len(a.waiting), agentID)
		}
	}
	w := &waiter{service: service, ready: make(chan lent, 1)}
	a = p.agent(agentID)
	a.waiting = append(a.waiting, w)
	return nil, w, nil
}

// wait waits for a stream.
func (p *pool) wait(ctx context.Context, agentID int64, w *waiter) (*stream, error) {
	waiting := ctx
	var patience clock.Timer
	var over <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		headroom := min(time.Until(deadline)/10, maxHeadroom)
		early, cancel := context.WithDeadline(ctx, deadline.Add(-headroom))
		defer cancel()
		waiting = early
	} else {
		patience = p.cfg.Clock.NewTimer(p.cfg.ConnectWait)
		defer patience.Stop()
		over = patience.C()
	}
	for {
		select {
		case l := <-w.ready:
			return l.stream, l.err
		case <-waiting.Done():
			return p.giveUp(ctx, waiting.Err(), agentID, w)
		case <-over:
			if st, err := p.giveUpUnlessConnected(ctx, agentID, w); st != nil || err != nil {
				return st, err
			}
			patience.Reset(p.cfg.ConnectWait) // it is there, and busy: the caller decides
		}
	}
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

// refuse tells those who wait for a service that no process offers. The lock is held.
func (p *pool) refuse(a *agent) {
	if len(a.processes) == 0 {
		return
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(w *waiter) bool {
		if slices.ContainsFunc(a.processes, func(one *process) bool { return one.offers(w.service) }) {
			return false
		}
		w.ready <- lent{err: tooOld(a.id, w.service)}
		return true
	})
}

func notConnected(agentID int64) error {
	return status.Errorf(codes.Unavailable, "agent %d is not connected", agentID)
}

func tooOld(agentID int64, service string) error {
	return status.Errorf(codes.Unimplemented, "the agentk of agent %d is too old for this: it does not offer %s", agentID, service)
}

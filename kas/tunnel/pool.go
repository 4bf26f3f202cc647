package tunnel

import (
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pool is who has which stream: of all agents, those that are idle, those that are lent to
// an RPC, and the RPCs that wait for one.
type pool struct {
	cfg     Config
	metrics *metrics
	// closing is closed when the pool is.
	closing chan struct{}
	// changed is called, with the lock held, when what an agent offers here has changed.
	changed func(agentID int64)

	mu     sync.Mutex
	closed bool
	agents map[int64]*agent
}

// agent is there as long as something of it is: the pool's lock guards it.
type agent struct {
	id int64
	// connects is how many Connects there are: those of processes, and those whose hello has
	// not come.
	connects int
	// processes, the one connected first comes first.
	processes []*process
	// waiting RPCs, first come first served. None of them could use an idle stream.
	waiting []*waiter
}

// process is an agentk, by its instance ID and token. The pool's lock guards it, but for
// agent and token, which never change.
type process struct {
	agent    *agent
	token    string
	instance int64
	services []string
	streams  []*stream
	// idle ones of them; the one used last comes last.
	idle []*stream
	// wanted is how many idle streams kas wants; told, what the process knows of that.
	wanted, told int
	// recent is the highest demand since calm was last called, before that of the period
	// before.
	recent, before demand
}

func newPool(cfg Config, m *metrics, changed func(agentID int64)) *pool {
	if changed == nil {
		changed = func(int64) {}
	}
	return &pool{cfg: cfg, metrics: m, closing: make(chan struct{}), changed: changed, agents: make(map[int64]*agent)}
}

// agent returns an agent, which is not forgotten before forget was called. The lock is held.
func (p *pool) agent(id int64) *agent {
	a := p.agents[id]
	if a == nil {
		a = &agent{id: id}
		p.agents[id] = a
	}
	return a
}

// forget drops an agent of which there is nothing left. The lock is held.
func (p *pool) forget(a *agent) {
	if a.connects == 0 && len(a.processes) == 0 && len(a.waiting) == 0 {
		delete(p.agents, a.id)
	}
}

// enter counts a Connect in open, until leave is called, and bounds how many of an agent
// have not said hello.
func (p *pool) enter(open *sync.WaitGroup, agentID int64) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errDraining
	}
	a := p.agent(agentID)
	greeting := a.connects
	for _, one := range a.processes {
		greeting -= len(one.streams)
	}
	if greeting >= p.cfg.MaxStreams {
		return nil, status.Errorf(codes.ResourceExhausted, "agent %d opens more than %d streams at once", agentID, p.cfg.MaxStreams)
	}
	a.connects++
	open.Add(1)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		a.connects--
		p.forget(a)
		open.Done()
	}, nil
}

// join makes a stream one of a process, and idle or lent to who waits.
func (p *pool) join(st *stream, agentID, instance int64, token string, services []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errDraining
	}
	a := p.agent(agentID)
	i := slices.IndexFunc(a.processes, func(o *process) bool { return o.instance == instance && o.token == token })
	if i < 0 && len(a.processes) >= p.cfg.MaxProcesses {
		return status.Errorf(codes.ResourceExhausted, "agent %d has %d processes connected, as many as may be", agentID, p.cfg.MaxProcesses)
	}
	if i < 0 {
		i = len(a.processes)
		a.processes = append(a.processes, &process{agent: a, token: token, instance: instance, wanted: 1, told: 1})
	}
	one := a.processes[i]
	if len(one.streams) >= p.cfg.MaxStreams {
		return status.Errorf(codes.ResourceExhausted, "this agentk process has %d streams open, as many as may be", p.cfg.MaxStreams)
	}
	if len(one.streams) == 0 || !slices.Equal(one.services, services) {
		one.services = services
		p.changed(agentID)
	}
	st.process, st.index = one, len(one.streams)
	one.streams = append(one.streams, st)
	p.metrics.busy.Inc() // until it is given
	p.refuse(a)
	p.give(st)
	return nil
}

// leave forgets a stream whose Connect returns.
func (p *pool) leave(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(st, errGone)
	st.left = true
	one := st.process
	last := len(one.streams) - 1
	one.streams[st.index] = one.streams[last]
	one.streams[st.index].index = st.index
	one.streams[last] = nil
	one.streams = one.streams[:last]
	p.metrics.busy.Dec()
	if last == 0 {
		a := one.agent
		a.processes = slices.DeleteFunc(a.processes, func(o *process) bool { return o == one })
		p.changed(a.id)
		p.refuse(a)
		p.forget(a)
	}
}

// giveBack takes a stream back whose RPC has ended.
func (p *pool) giveBack(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.give(st)
}

// give hands a stream, which counts as busy, to the first who waits for it, or makes it
// idle. The lock is held.
func (p *pool) give(st *stream) {
	if st.ended {
		return
	}
	if st.retiring != nil {
		p.end(st, st.retiring)
		return
	}
	one := st.process
	a := one.agent
	i := slices.IndexFunc(a.waiting, func(w *waiter) bool { return one.offers(w.service) })
	if i < 0 {
		st.idle = true
		one.idle = append(one.idle, st)
		p.metrics.busy.Dec()
		p.metrics.idle.Inc()
		return
	}
	w := a.waiting[i]
	a.waiting = slices.Delete(a.waiting, i, i+1)
	p.lend(st)
	w.ready <- lent{stream: st}
}

// end makes a stream end, for a reason that its agent is told; nil: it is not needed any
// more. Only the first reason counts. The lock is held.
func (p *pool) end(st *stream, why error) {
	if st.ended {
		return
	}
	st.ended, st.why = true, why
	close(st.over)
	if st.idle {
		one := st.process
		one.idle = slices.DeleteFunc(one.idle, func(o *stream) bool { return o == st })
		st.idle = false
		p.metrics.idle.Dec()
		p.metrics.busy.Inc() // until it has left
	}
}

// endNow is end.
func (p *pool) endNow(st *stream, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(st, why)
}

// retire ends a stream as soon as it is idle.
func (p *pool) retire(st *stream, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retireLocked(st, why)
}

func (p *pool) retireLocked(st *stream, why error) {
	if st.idle {
		p.end(st, why)
		return
	}
	st.retiring = why
}

// close refuses streams and RPCs from now on, ends the streams that are idle, and those
// that are busy when they no longer are.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.closing)
	for _, a := range p.agents {
		for _, w := range a.waiting {
			w.ready <- lent{err: errDraining}
		}
		a.waiting = nil
		for _, one := range a.processes {
			for _, st := range one.streams {
				p.retireLocked(st, errDraining)
			}
		}
		p.forget(a)
	}
}

// processes returns those that are connected.
func (p *pool) processes() []*process {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*process, 0, len(p.agents))
	for _, a := range p.agents {
		all = append(all, a.processes...)
	}
	return all
}

// services are those that processes of an agent offer, ordered.
func (p *pool) services(agentID int64) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.agents[agentID]
	if a == nil {
		return nil
	}
	var all []string
	for _, one := range a.processes {
		all = append(all, one.services...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// expel ends all streams of a process.
func (p *pool) expel(one *process, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range one.streams {
		p.end(st, why)
	}
}

// offers says whether the process has a service.
func (one *process) offers(service string) bool { return slices.Contains(one.services, service) }

package tunnel

import "slices"

// demand on a process: streams that were busy at once, and idle ones that were wanted.
type demand struct{ busy, idle int }

func (d demand) or(o demand) demand { return demand{max(d.busy, o.busy), max(d.idle, o.idle)} }

// lend notes what lending a stream does to the demand on its process. The lock is held.
func (p *pool) lend(st *stream) {
	one := st.process
	busy := len(one.streams) - len(one.idle)
	// Those who wait are served by streams that are yet to come.
	d := demand{busy: busy, idle: min(p.cfg.MaxIdle, 1+busy/4+len(one.agent.waiting))}
	one.recent = one.recent.or(d)
	one.wanted = max(one.wanted, d.idle)
	if one.wanted != one.told {
		one.told, st.tell = one.wanted, one.wanted
	}
}

// calm lets go of idle streams that were not needed since it was called the last time but
// one, and ends them with the lower number that is wanted now.
func (p *pool) calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.agents {
		for _, one := range a.processes {
			p.calmProcess(one)
		}
	}
}

func (p *pool) calmProcess(one *process) {
	busy := len(one.streams) - len(one.idle)
	lately := one.recent.or(one.before)
	one.before, one.recent = one.recent, demand{busy: busy}
	one.wanted = min(one.wanted, max(1, lately.idle))
	surplus := len(one.streams) - max(busy, lately.busy) - one.wanted
	for _, st := range slices.Clone(one.idle[:max(0, min(surplus, len(one.idle)))]) { // used longest ago
		st.parting = uint32(one.wanted)
		one.told = one.wanted
		p.end(st, nil)
	}
}

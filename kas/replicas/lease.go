package replicas

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
)

// State is who holds a lease.
type State int

const (
	// Unknown is that Redis is away, or has not been asked yet. Everybody does its own work.
	Unknown State = iota
	// Mine is that nobody else holds it.
	Mine
	// Other is that another holds it.
	Other
)

// String is for people.
func (s State) String() string { return [...]string{"unknown", "mine", "other"}[s] }

// Lease is a name that at most one holds, of all that take part in it anywhere.
type Lease struct {
	r     *Replicas
	name  string
	token string

	// The rest is guarded by leases.mu.
	running  bool
	state    State
	changed  chan struct{}
	deadline time.Time // until when it is Mine
	due      time.Time // when to ask Redis next
}

// leases is all that take part here.
type leases struct {
	clock   clock.Clock
	ttl     time.Duration
	numbers atomic.Uint64
	wake    chan struct{}

	mu       sync.Mutex
	byName   map[string][]*Lease
	released []*Lease
}

func newLeases(c clock.Clock, ttl time.Duration) *leases {
	return &leases{clock: c, ttl: ttl, wake: make(chan struct{}, 1), byName: make(map[string][]*Lease)}
}

// Lease returns one that is not tried for before its Begin.
func (r *Replicas) Lease(name string) *Lease {
	token := r.instance + strconv.FormatUint(r.leases.numbers.Add(1), 10)
	return &Lease{r: r, name: name, token: token, changed: make(chan struct{})}
}

// Begin has the lease tried for, and renewed, until End. There are many: none has a goroutine
// of its own.
func (l *Lease) Begin() {
	all := l.r.leases
	all.mu.Lock()
	l.running, l.due = true, time.Time{}
	all.byName[l.name] = append(all.byName[l.name], l)
	all.mu.Unlock()
	nudge(all.wake)
}

// End gives the lease up. It is to be called once for each Begin.
func (l *Lease) End() {
	all := l.r.leases
	all.mu.Lock()
	defer all.mu.Unlock()
	l.running = false
	rest := slices.DeleteFunc(all.byName[l.name], func(other *Lease) bool { return other == l })
	if all.byName[l.name] = rest; len(rest) == 0 {
		delete(all.byName, l.name)
	}
	if l.state == Mine {
		all.released = append(all.released, l)
	}
	l.set(Unknown)
	nudge(all.wake)
}

// State tells who holds the lease, and gives a channel that is closed when that has changed.
func (l *Lease) State() (State, <-chan struct{}) {
	all := l.r.leases
	all.mu.Lock()
	defer all.mu.Unlock()
	l.expire(all.clock.Now())
	return l.state, l.changed
}

// expire is for a process that was held up for too long.
func (l *Lease) expire(now time.Time) {
	if l.state == Mine && !now.Before(l.deadline) {
		l.set(Unknown)
	}
}

func (l *Lease) set(s State) {
	if l.state != s {
		l.state = s
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// away makes all unknown. What was to be given up expires.
func (a *leases) away() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.released = nil
	a.each(func(l *Lease) { l.set(Unknown) })
}

// retry asks Redis for all.
func (a *leases) retry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.each(func(l *Lease) { l.due = time.Time{} })
	nudge(a.wake)
}

// freed asks Redis for those of the names.
func (a *leases) freed(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		for _, l := range a.byName[name] {
			if l.state != Mine {
				l.due = time.Time{}
				nudge(a.wake)
			}
		}
	}
}

func (a *leases) each(do func(*Lease)) {
	for _, named := range a.byName {
		for _, l := range named {
			do(l)
		}
	}
}

// next returns those that are due, and after how long the next ones are. Own ones are taken
// along a little early, so that many are renewed with few calls.
func (a *leases) next() ([]*Lease, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	early := now.Add(a.ttl / 12)
	var due []*Lease
	wait := a.ttl
	a.each(func(l *Lease) {
		if !l.due.After(now) || l.state == Mine && l.due.Before(early) {
			due = append(due, l)
		} else {
			wait = min(wait, l.due.Sub(now))
		}
	})
	return due, wait
}

// learn takes Redis's answer to a call that was sent at the time.
func (a *leases) learn(l *Lease, sent time.Time, freeAfter time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	l.expire(now)
	switch {
	case !l.running && freeAfter == 0: // it was given up meanwhile
		a.released = append(a.released, l)
		nudge(a.wake)
	case !l.running:
	case freeAfter == 0:
		l.deadline = sent.Add(a.ttl - a.ttl/10)
		l.due = sent.Add(a.ttl / 3)
		l.set(Mine)
		l.expire(now)
	default:
		l.due = now.Add(max(freeAfter, a.ttl/50) + rand.N(a.ttl/20)) //nolint:gosec // it spreads, it keeps no secret
		l.set(Other)
	}
}

// takeReleased returns those that are to be given up; with all also those that are held.
func (a *leases) takeReleased(all bool) []*Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	released := a.released
	a.released = nil
	if all {
		a.each(func(l *Lease) {
			if l.state == Mine {
				released = append(released, l)
			}
		})
	}
	return released
}

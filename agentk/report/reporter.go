package report

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// DefaultInterval is how long changes gather before the next report.
const DefaultInterval = 100 * time.Millisecond

// Config of a Reporter.
type Config struct {
	Clock clock.Clock
	// Interval between two reports; zero means DefaultInterval.
	Interval time.Duration
}

// Outcome is how a run over a whole set ended.
type Outcome struct {
	gitops.Result
	// FileErrors is how many mistakes kas found in the repository.
	FileErrors int
	// Complete is false where the set is not all that the repository asks for.
	Complete bool
	// DryRun says that nothing was changed in the cluster.
	DryRun bool
}

// Reporter keeps the newest status of one manifest project.
type Reporter struct {
	cfg Config
	// wake holds a token while there is something that the stream has not taken.
	wake chan struct{}

	mu      sync.Mutex
	summary summary
	refused string
	// suspended, unless nil, is who switched syncing off.
	suspended *Suspension
	commit    string
	applied   string
	// appliedAt and readyAt are of the newest commit; zero: not reached.
	appliedAt, readyAt time.Time
	// ranAt is when a run ended last.
	ranAt   time.Time
	objects map[inventory.ID]*entry
	// run counts runs; an entry that carries an older number was not mentioned
	// by the present one.
	run uint64
	// healths and actions count the objects, and contested those that are fought
	// over.
	healths   map[gitops.Health]int
	actions   map[gitops.Action]int
	contested int

	// What the open stream has not taken yet. While none is open, nothing is
	// gathered here, because the next one starts with everything.
	attached bool
	reset    bool
	changed  bool
	dirty    []*entry
	removed  map[inventory.ID]struct{}
	traced   traced
}

// traced is the trace of a commit, which reports are part of that say something new of it.
type traced struct {
	commit string
	// parent is its W3C trace context; empty: the commit is not traced.
	parent string
	// state is what was reported of the commit last.
	state syncstatus.State
	// over: what is still to be reported is the last of it.
	over bool
}

// entry is one object of the project.
type entry struct {
	status gitops.ObjectStatus
	// did is what the newest run did, and done what an earlier run did for the same
	// commit: a further run that finds nothing to do does not hide it. done is zero
	// where that is nothing.
	did, done gitops.Action
	run       uint64
	dirty     bool
	gone      bool
}

var _ gitops.Observer = (*Reporter)(nil)

// New returns a reporter that knows of nothing.
func New(cfg Config) *Reporter {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	return &Reporter{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		objects: map[inventory.ID]*entry{},
		healths: map[gitops.Health]int{},
		actions: map[gitops.Action]int{},
		removed: map[inventory.ID]struct{}{},
	}
}

// Syncing says that a run over the set of commit begins. A further run over the
// same commit leaves the state as it is until it has ended: a retry of what failed
// is no news.
func (r *Reporter) Syncing(commit string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run++
	if commit == r.commit && r.summary.phase == phaseRan {
		return
	}
	if commit != r.commit {
		for _, e := range r.objects {
			e.done = 0
		}
		r.commit, r.appliedAt, r.readyAt = commit, time.Time{}, time.Time{}
	}
	r.summary = summary{phase: phaseSyncing}
	r.traced.state = syncstatus.State_STATE_UNSPECIFIED
	r.changedLocked()
}

// Ran says that the run ended, well or not so well.
func (r *Reporter) Ran(outcome Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.objects {
		if e.run != r.run {
			r.removeLocked(id, e)
		}
	}
	r.ranAt = r.cfg.Clock.Now()
	ready, late := r.summary.ready, r.summary.late
	if r.summary.phase != phaseRan {
		ready, late = false, nil
	}
	r.summary = summary{phase: phaseRan, outcome: outcome, ready: ready, late: late}
	if outcome.Failed == 0 && !outcome.DryRun {
		if r.applied != r.commit || r.appliedAt.IsZero() {
			r.appliedAt = r.ranAt
		}
		r.applied = r.commit
	}
	r.changedLocked()
}

// Health says whether all objects are healthy, and which have not become so in time.
func (r *Reporter) Health(ready bool, late []inventory.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.ready, r.summary.late = ready, late
	if ready && r.readyAt.IsZero() {
		r.readyAt = r.cfg.Clock.Now()
	}
	r.changedLocked()
}

// Trouble says what keeps the sync from going on for now. Empty: nothing does.
func (r *Reporter) Trouble(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.summary.trouble == message {
		return
	}
	r.summary.trouble = message
	r.changedLocked()
}

// Refused says why the agent could not take the newest set. Empty: it could.
func (r *Reporter) Refused(message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == message {
		return
	}
	r.refused = message
	r.changedLocked()
}

// Traced has reports carry a W3C trace context that tell of another state of the commit
// than the report before, until Untraced is called.
func (r *Reporter) Traced(commit, traceparent string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.traced = traced{commit: commit, parent: traceparent}
}

// Untraced ends that: what has been said already and not been reported yet is the last.
func (r *Reporter) Untraced() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed || !r.attached {
		r.traced.over = true
	} else {
		r.traced = traced{}
	}
}

// traceparentLocked returns what a report of that state carries.
func (r *Reporter) traceparentLocked(state syncstatus.State) string {
	parent := ""
	if t := &r.traced; t.parent != "" && t.commit == r.commit && t.state != state {
		parent, t.state = t.parent, state
	}
	if r.traced.over {
		r.traced = traced{}
	}
	return parent
}

// Suspension is who switched syncing off, and when.
type Suspension struct {
	By string
	At time.Time
}

// Suspended says that syncing is switched off. Nil: it is not.
func (r *Reporter) Suspended(s *Suspension) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s == r.suspended || s != nil && r.suspended != nil && *s == *r.suspended {
		return
	}
	r.suspended = s
	r.changedLocked()
}

// Held returns the commit that deletions wait for a person's approval of, and how many
// objects they are; none: nothing waits.
func (r *Reporter) Held() (commit string, objects int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.summary.phase != phaseRan || len(r.summary.outcome.Held) == 0 {
		return "", 0
	}
	return r.commit, len(r.summary.outcome.Held)
}

// Object implements gitops.Observer.
func (r *Reporter) Object(status gitops.ObjectStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.objects[status.ID]
	if !known {
		e = &entry{}
		r.objects[status.ID] = e
	} else {
		r.countLocked(e, -1)
	}
	before := e.status
	e.take(status)
	e.run = r.run
	r.countLocked(e, 1)
	if known && e.status == before {
		return
	}
	if !r.attached {
		return
	}
	delete(r.removed, status.ID)
	if !e.dirty {
		e.dirty = true
		r.dirty = append(r.dirty, e)
	}
	r.changedLocked()
}

// take brings the entry up to date.
func (e *entry) take(status gitops.ObjectStatus) {
	e.did = status.Action
	switch status.Action {
	case gitops.ActionCreated, gitops.ActionConfigured:
		e.done = status.Action
	case gitops.ActionUnchanged:
		if e.done != 0 {
			status.Action = e.done
		}
	default:
	}
	e.status = status
}

// Removed implements gitops.Observer.
func (r *Reporter) Removed(id inventory.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.objects[id]; ok {
		r.removeLocked(id, e)
		r.changedLocked()
	}
}

// Actions counts the project's objects by what the newest run did to them.
func (r *Reporter) Actions() map[gitops.Action]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[gitops.Action]int, len(r.actions))
	for action, n := range r.actions {
		if n > 0 {
			counts[action] = n
		}
	}
	return counts
}

func (r *Reporter) removeLocked(id inventory.ID, e *entry) {
	delete(r.objects, id)
	r.countLocked(e, -1)
	e.gone = true
	if r.attached {
		r.removed[id] = struct{}{}
	}
}

func (r *Reporter) countLocked(e *entry, by int) {
	r.healths[e.status.Health] += by
	r.actions[e.did] += by
	if e.status.Contest != nil {
		r.contested += by
	}
}

// changedLocked wakes the stream.
func (r *Reporter) changedLocked() {
	if !r.attached {
		return
	}
	r.changed = true
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

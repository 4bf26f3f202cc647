package cache

import (
	"crypto/rand"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/objects"
)

// store is the objects of a resource, and the order of their changes. What it is told
// and what it tells are one step each. It outlives the informers that fill it, one
// after another.
type store struct {
	clock clock.PassiveClock
	// redacted and whole say what the entries are like.
	redacted, whole bool

	// audience is guarded by the cache's lock.
	audience audience

	// recording is until when changes are recorded, in nanoseconds since 1970.
	recording atomic.Int64

	mu sync.RWMutex
	// owner is the informer that may fill the store.
	owner *resource
	// mapping, of what it was filled with.
	mapping *meta.RESTMapping
	entries map[objects.Key]entry
	filled  bool
	// epoch and sequence are the newest position.
	epoch    string
	sequence uint64
	columns  []objects.Column
	// newest is the newest resource version, and currentAt when it was up to date.
	newest    string
	currentAt time.Time
	// ended is closed, and replaced, when Views are of no more use.
	ended chan struct{}

	// What follows is for questions, and empty while there are none: the objects in the
	// order of their keys (nil: not made), what they have in common, and their changes.
	index  []*objects.Object
	shared *shared
	log    changeLog
	// changed is closed at the next change; nil: nobody waits for it.
	changed chan struct{}
}

// audience of a store.
type audience struct {
	// views that are held, and when one last was opened or released.
	views int
	at    time.Time
}

func newStore(clock clock.PassiveClock, m *meta.RESTMapping, whole, redacted bool) *store {
	return &store{
		clock: clock, mapping: m, whole: whole, redacted: redacted,
		entries: map[objects.Key]entry{}, epoch: rand.Text(), ended: make(chan struct{}),
	}
}

// adopt has an informer fill the store from now on, and no other.
func (s *store) adopt(r *resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner = r
}

// put keeps an entry, and says whether that was a change.
func (s *store) put(by *resource, e entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != by {
		return false
	}
	s.heard(e.version())
	key := e.key()
	old := s.entries[key]
	if same(old, e) {
		return false
	}
	s.entries[key] = e
	s.note(key, old, e)
	return true
}

// remove drops what was deleted, by a deletion with that resource version, and says
// whether that was a change.
func (s *store) remove(by *resource, key objects.Key, version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != by {
		return false
	}
	s.heard(version)
	old, ok := s.entries[key]
	if !ok {
		return false
	}
	delete(s.entries, key)
	s.note(key, old, nil)
	return true
}

// difference is what a list has changed.
type difference struct {
	put     []entry
	removed []objects.Key
}

// replace keeps what a list of that resource version has, and nothing else.
func (s *store) replace(by *resource, list []entry, version string, columns []objects.Column) difference {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != by {
		return difference{}
	}
	anew := !s.filled || s.mapping.Resource != by.mapping.Resource || !slices.Equal(s.columns, columns)
	if anew && s.filled {
		s.renew()
	}
	s.mapping, s.columns, s.filled = by.mapping, columns, true
	old := s.entries
	s.entries = make(map[objects.Key]entry, len(list))
	var d difference
	for _, e := range list {
		key := e.key()
		if was := old[key]; !anew && same(was, e) {
			s.entries[key] = was
			continue
		}
		s.entries[key] = e
		d.put = append(d.put, e)
	}
	for key := range old {
		if _, ok := s.entries[key]; !ok {
			d.removed = append(d.removed, key)
		}
	}
	if !anew {
		s.noteAll(old, d)
	}
	s.heard(version)
	return d
}

// noteAll notes what a list has changed.
func (s *store) noteAll(old map[objects.Key]entry, d difference) {
	if len(d.put)+len(d.removed) > maxSmallChanges {
		s.index = nil
	}
	for _, e := range d.put {
		s.note(e.key(), old[e.key()], e)
	}
	for _, key := range d.removed {
		s.note(key, old[key], nil)
	}
}

// maxSmallChanges is how many changes at once are made to the index one by one: from
// there on it costs less to make it anew.
const maxSmallChanges = 256

// renew begins a new epoch and ends the Views of the old one.
func (s *store) renew() {
	s.epoch, s.sequence = rand.Text(), 0
	s.log.stop()
	s.index, s.shared = nil, nil
	s.wake()
	s.endLocked()
}

// same says that an entry is what was already known.
func same(old, e entry) bool {
	return old != nil && old.version() == e.version() && e.version() != ""
}

// note takes a step: old is nil for what is new, and e for what is gone.
func (s *store) note(key objects.Key, old, e entry) {
	s.sequence++
	if s.changed != nil { // whoever waits will ask
		s.record(recordAfterChanges)
	}
	recording := s.recording.Load() > s.clock.Now().UnixNano()
	if !recording {
		s.log.stop()
	}
	if s.index != nil || recording {
		var change objects.Change
		if e != nil {
			change.After = e.show(s.common())
		}
		if old != nil {
			change.Before = s.shown(key, old)
		}
		if s.index != nil {
			s.index = placed(s.index, key, change.After)
		}
		if recording {
			s.log.append(change, s.sequence)
		}
	}
	s.wake()
}

// common is what is shared.
func (s *store) common() *shared {
	if s.shared == nil {
		s.shared = &shared{}
	}
	return s.shared
}

// shown is an entry as Views show it, from the index where there is one.
func (s *store) shown(key objects.Key, e entry) *objects.Object {
	if at, ok := position(s.index, key); ok {
		return s.index[at]
	}
	return e.show(nil)
}

// heard notes that the store is up to date, at a resource version; empty: not known.
func (s *store) heard(version string) {
	s.currentAt = s.clock.Now()
	if version != "" {
		s.newest = version
	}
}

// hear is heard for the informer that owns the store.
func (s *store) hear(by *resource, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == by && s.filled {
		s.heard(version)
	}
}

// live returns an object for the engine.
func (s *store) live(namespace, name string) (gitops.Live, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	it, ok := s.entries[objects.Key{Namespace: namespace, Name: name}].(*item)
	if !ok {
		return gitops.Live{}, false
	}
	return it.live, true
}

// isFilled says that the objects were known once.
func (s *store) isFilled() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.filled
}

// end tells the Views there are that they are of no more use.
func (s *store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked()
}

func (s *store) endLocked() {
	close(s.ended)
	s.ended = make(chan struct{})
}

// forget drops what was made for questions.
func (s *store) forget() {
	s.recording.Store(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.stop()
	s.index, s.shared = nil, nil
}

// trim drops changes that nobody asks for any more.
func (s *store) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil && s.recording.Load() <= s.clock.Now().UnixNano() {
		s.log.stop()
	}
}

func (s *store) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

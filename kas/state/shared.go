package state

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/clusterstate"
)

var (
	// errCrowded ends a shared watch that would take too much memory.
	errCrowded = errors.New("a shared watch takes too much memory")
	// errTooSlow ends a watcher.
	errTooSlow = status.Error(codes.ResourceExhausted,
		"the watch was read too slowly to keep up with the changes: read faster, or watch less")
)

// senseless is for an agent whose answer is not what was asked for.
func senseless(err error) error {
	return status.Errorf(codes.Internal, "the agent's answer makes no sense, look at its log and its version: %s", err)
}

const (
	// entryOverhead is about what an item costs in memory besides its bytes.
	entryOverhead = 200
	// mostLags is how often in a row a watcher may fall behind the log.
	mostLags = 3
)

// entry is an item of a shared watch.
type entry struct {
	key key
	raw []byte // never changed, replaced
}

func (e *entry) size() int64 {
	return int64(len(e.raw) + len(e.key.namespace) + len(e.key.name) + entryOverhead)
}

// logged is a message of the log: no source or columns, no reset, no synced.
type logged struct {
	raw    []byte
	cursor string
}

func (l *logged) size() int64 { return int64(len(l.raw)+len(l.cursor)) + entryOverhead }

// shared is what kas knows of a watch that several watchers share. One goroutine calls
// apply and end, any number the others.
type shared struct {
	clock  clock.PassiveClock
	limits limits
	budget *budget
	// freshening holds something while somebody asks how fresh it is.
	freshening chan struct{}

	mu sync.Mutex
	// changed is closed when anything below changes.
	changed chan struct{}
	// generation counts how often the agent began anew.
	generation uint64
	// live: everything has been told since then, and the log is valid.
	live  bool
	items map[key]*entry
	// order has items by key, unless it is nil.
	order []*entry
	// log has the messages from number first on; base is the cursor before it.
	log       []logged
	first     uint64
	base      string
	itemBytes int64
	logBytes  int64
	// cursor is the newest.
	cursor string
	source []byte
	// sourceAt is when the source was told, or was asked for in vain.
	sourceAt time.Time
	columns  [][]byte
	ages     []bool
	// err says why it has ended; nil: it has not.
	err error
}

func newShared(c clock.PassiveClock, l limits, b *budget) *shared {
	return &shared{
		clock: c, limits: l, budget: b, changed: make(chan struct{}), freshening: make(chan struct{}, 1),
		generation: 1, // a watcher at the zero place has been told nothing
		items:      make(map[key]*entry),
	}
}

// newest is the cursor to go on from.
func (s *shared) newest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor
}

// apply takes the agent's next message. Its error is errCrowded or has a gRPC status.
func (s *shared) apply(m *message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	if m.reset {
		s.begin()
	}
	if m.source != nil {
		s.source, s.sourceAt = bytes.Clone(m.source), s.clock.Now()
	}
	if m.columns != nil {
		s.columns = cloneAll(m.columns)
		s.ages = agesOf(s.columns)
	}
	for _, data := range m.events {
		if err := s.take(data); err != nil {
			return senseless(err)
		}
	}
	if s.live && (len(m.events) > 0 || m.cursor != s.cursor) {
		s.record(logged{raw: m.encode(false, false), cursor: m.cursor})
	}
	s.cursor = m.cursor
	if !s.live && m.synced {
		s.live, s.base = true, m.cursor
	}
	if s.itemBytes+s.logBytes > s.limits.watchBytes || s.budget.exceeded() {
		return errCrowded
	}
	return nil
}

// begin forgets everything: the agent tells it anew. The order of the log goes on.
func (s *shared) begin() {
	s.budget.add(-s.itemBytes - s.logBytes)
	s.itemBytes, s.logBytes = 0, 0
	s.first += uint64(len(s.log))
	s.items, s.order, s.log = make(map[key]*entry), nil, nil
	s.generation++
	s.live = false
}

// take brings the items up to date with an event.
func (s *shared) take(data []byte) error {
	kind, item, err := parseEvent(data)
	if err != nil {
		return err
	}
	k, err := keyOf(item)
	if err != nil {
		return err
	}
	known := s.items[k]
	var grown int64
	switch kind {
	case clusterstate.EventType_EVENT_TYPE_ADDED, clusterstate.EventType_EVENT_TYPE_MODIFIED:
		raw := bytes.Clone(item) // else one item keeps its whole message in memory
		if known == nil {
			known = &entry{key: k, raw: raw}
			s.items[k], s.order = known, nil
			grown = known.size()
		} else {
			grown = int64(len(raw) - len(known.raw))
			known.raw = raw
		}
	case clusterstate.EventType_EVENT_TYPE_DELETED:
		if known != nil {
			delete(s.items, k)
			s.order = nil
			grown = -known.size()
		}
	default:
		return fmt.Errorf("event of type %d", kind)
	}
	s.itemBytes += grown
	s.budget.add(grown)
	return nil
}

// record appends to the log and drops its oldest messages where it is too long.
func (s *shared) record(l logged) {
	s.log = append(s.log, l)
	grown := l.size()
	drop := 0
	for len(s.log)-drop > 1 && (len(s.log)-drop > s.limits.logMessages || s.logBytes+grown > s.limits.logBytes) {
		grown -= s.log[drop].size()
		s.base = s.log[drop].cursor
		s.log[drop] = logged{}
		drop++
	}
	s.log = s.log[drop:]
	s.first += uint64(drop)
	s.logBytes += grown
	s.budget.add(grown)
}

// end says why there is nothing more to come, and forgets everything.
func (s *shared) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	s.begin()
	s.err = err
}

func (s *shared) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// top is what a watcher is told first that goes on.
func (s *shared) top() head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return head{s.source, s.columns}
}

// freshness returns when the source was last told or asked for; false: nothing has been
// told, or it has ended.
func (s *shared) freshness() (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sourceAt, s.live && s.err == nil
}

// freshen replaces the source, unless it is nil, and notes that it was asked for.
func (s *shared) freshen(source []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if source != nil {
		s.source = source
	}
	s.sourceAt = s.clock.Now()
}

func cloneAll(all [][]byte) [][]byte {
	out := make([][]byte, len(all))
	for i, one := range all {
		out[i] = bytes.Clone(one)
	}
	return out
}

package state

import (
	"cmp"
	"slices"
)

// place in the log: the messages before next have been told.
type place struct {
	generation, next uint64
}

// find returns the place after the message with this cursor; false: it is not known.
// changed is closed when that may be different.
func (s *shared) find(cursor string) (at place, changed <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live || s.err != nil || cursor == "" {
		return place{}, s.changed, false
	}
	for i, l := range slices.Backward(s.log) {
		if l.cursor == cursor {
			return place{s.generation, s.first + uint64(i) + 1}, s.changed, true
		}
	}
	return place{s.generation, s.first}, s.changed, s.base == cursor
}

// head is what a watcher is told first.
type head struct {
	source  []byte
	columns [][]byte
}

// step is what a watcher has to do next: one of these.
type step struct {
	// wait until this is closed; told: everything has been.
	wait <-chan struct{}
	told bool
	// tell these messages.
	log []logged
	// begin anew with these.
	snapshot *snapshot
	// behind: because the watcher has fallen behind the log.
	behind bool
}

// snapshot is all items, in the order of their keys, at a place.
type snapshot struct {
	head
	items  [][]byte
	ages   []bool
	cursor string
}

// next returns what a watcher that is at a place has to do, and at which place it is then.
func (s *shared) next(at place) (step, place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := place{s.generation, s.first + uint64(len(s.log))}
	switch {
	case s.err != nil:
		return step{}, at, s.err
	case !s.live:
		return step{wait: s.changed}, at, nil
	case at == end:
		return step{wait: s.changed, told: true}, at, nil
	case at.generation != s.generation:
		return step{snapshot: s.snapshot()}, end, nil
	case at.next < s.first:
		return step{snapshot: s.snapshot(), behind: true}, end, nil
	default:
		return step{log: slices.Clone(s.log[at.next-s.first:])}, end, nil
	}
}

// snapshot copies what there is. s.mu is held.
func (s *shared) snapshot() *snapshot {
	if s.order == nil {
		s.order = make([]*entry, 0, len(s.items))
		for _, e := range s.items {
			s.order = append(s.order, e)
		}
		slices.SortFunc(s.order, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.key.namespace, b.key.namespace), cmp.Compare(a.key.name, b.key.name))
		})
	}
	out := &snapshot{head: head{s.source, s.columns}, items: make([][]byte, len(s.order)), ages: s.ages, cursor: s.cursor}
	for i, e := range s.order {
		out.items[i] = e.raw
	}
	return out
}

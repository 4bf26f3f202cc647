package cache

import (
	"slices"
	"strings"
	"time"

	"github.com/kas-agentk/kas/internal/objects"
)

// What a store tells Views.

// always is a channel that is closed.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// get returns an object; nil: there is none.
func (s *store) get(key objects.Key) *objects.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.entries[key]
	if !ok {
		return nil
	}
	return s.shown(key, e)
}

// list returns the objects of a namespace, in order, and the position.
func (s *store) list(namespace string) ([]*objects.Object, objects.Position) {
	s.record(recordAfterList)
	s.mu.RLock()
	if s.index == nil {
		s.mu.RUnlock()
		s.makeIndex()
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	index := s.index
	if index == nil {
		// A list came between that changed much. That is rare.
		index = s.sorted(nil)
	}
	if namespace != "" {
		from, _ := position(index, objects.Key{Namespace: namespace})
		until, _ := position(index, objects.Key{Namespace: namespace + "\x00"})
		index = index[from:until]
	}
	return slices.Clone(index), objects.Position{Epoch: s.epoch, Sequence: s.sequence}
}

func (s *store) makeIndex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		s.index = s.sorted(s.common())
	}
}

// sorted shows all entries in order.
func (s *store) sorted(shared *shared) []*objects.Object {
	index := make([]*objects.Object, 0, len(s.entries))
	for _, e := range s.entries {
		index = append(index, e.show(shared))
	}
	slices.SortFunc(index, func(a, b *objects.Object) int {
		return compare(a, objects.Key{Namespace: b.Namespace, Name: b.Name})
	})
	return index
}

// since returns the changes after a position and the position after them; false: they
// are not known.
func (s *store) since(p objects.Position) ([]objects.Change, objects.Position, bool) {
	s.record(recordAfterChanges)
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := objects.Position{Epoch: s.epoch, Sequence: s.sequence}
	switch {
	case p == now:
		return nil, now, true
	case p.Epoch != s.epoch || p.Sequence > s.sequence:
		return nil, now, false
	}
	changes, known := s.log.since(p.Sequence)
	return changes, now, known
}

// after returns a channel that is closed at the next change after a position.
func (s *store) after(p objects.Position) <-chan struct{} {
	s.record(recordAfterChanges)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Epoch != s.epoch || p.Sequence != s.sequence {
		return always
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// record has changes recorded from now on, for that long at least.
func (s *store) record(d time.Duration) {
	until := s.clock.Now().Add(d).UnixNano()
	for {
		known := s.recording.Load()
		if known >= until || s.recording.CompareAndSwap(known, until) {
			return
		}
	}
}

func (s *store) freshness() objects.Freshness {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return objects.Freshness{
		ResourceVersion: s.newest, CurrentAt: s.currentAt,
		Version: s.mapping.Resource.Version, Kind: s.mapping.GroupVersionKind.Kind,
		Namespaced: namespaced(s.mapping), Redacted: s.redacted,
	}
}

// compare orders objects by namespace and name.
func compare(o *objects.Object, key objects.Key) int {
	if c := strings.Compare(o.Namespace, key.Namespace); c != 0 {
		return c
	}
	return strings.Compare(o.Name, key.Name)
}

// position is where a key is in an index, or would be.
func position(index []*objects.Object, key objects.Key) (int, bool) {
	return slices.BinarySearchFunc(index, key, compare)
}

// placed returns an index in which an object has its place; nil: it has none any more.
func placed(index []*objects.Object, key objects.Key, o *objects.Object) []*objects.Object {
	at, found := position(index, key)
	switch {
	case o == nil && found:
		return slices.Delete(index, at, at+1)
	case o == nil:
		return index
	case found:
		index[at] = o
		return index
	default:
		return slices.Insert(index, at, o)
	}
}

package desired

import "sync"

// Slot holds the newest of a sequence of values. Writers never wait, and a reader
// that is late sees the newest value only. The zero value is an empty slot.
type Slot[T any] struct {
	mu      sync.Mutex
	value   T
	filled  bool
	changed chan struct{}
}

// Put replaces the value and wakes everyone who waits for a newer one.
func (s *Slot[T]) Put(value T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.filled = value, true
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Offer puts the value into a slot that has none yet, and says whether it did.
func (s *Slot[T]) Offer(value T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filled {
		return false
	}
	s.value, s.filled = value, true
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return true
}

// Get returns the newest value, whether there is one yet, and a channel that is
// closed as soon as there is a newer one.
func (s *Slot[T]) Get() (value T, filled bool, newer <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.value, s.filled, s.changed
}

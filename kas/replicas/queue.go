package replicas

import "sync"

const (
	maxQueued      = 4096
	maxQueuedBytes = 16 << 20
)

// event is a message on its way, in or out.
type event struct {
	topic   string
	message []byte
	// only is whom a gap is told; nil: it is a message to all who listen to the topic.
	only *listener
}

// queue is a bounded one. What does not fit is lost, and whoever takes learns of it.
type queue struct {
	filled chan struct{}

	mu     sync.Mutex
	events []event
	bytes  int
	lost   bool
}

func newQueue() *queue { return &queue{filled: make(chan struct{}, 1)} }

// put is false where the event is lost.
func (q *queue) put(e event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	nudge(q.filled)
	if len(q.events) >= maxQueued || q.bytes+len(e.message) > maxQueuedBytes {
		q.lost = true
		return false
	}
	q.events = append(q.events, e)
	q.bytes += len(e.message)
	return true
}

// take empties the queue, and tells whether anything was lost since it did so last.
func (q *queue) take() ([]event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, lost := q.events, q.lost
	q.events, q.bytes, q.lost = nil, 0, false
	return events, lost
}

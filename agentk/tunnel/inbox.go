package tunnel

import (
	"context"
	"io"
	"sync"
)

const (
	// maxInbox is how many bytes may wait for a handler before nothing more is received.
	maxInbox = 256 << 10
	// messageCost is what a message costs beside its bytes.
	messageCost = 64
)

// inbox has the request messages that the handler of an RPC has not read. It is filled by
// one goroutine and read by one other.
type inbox struct {
	mu    sync.Mutex
	queue [][]byte
	// head is where the queue begins.
	head int
	// first is where a queue of one message is, as that of a unary RPC.
	first [1][]byte
	size  int
	// closed: there will be no more.
	closed bool
	// changed is closed at the next change; nil: nobody waits for it.
	changed chan struct{}
}

// put adds a message. One for which there will be no reader is dropped. There is always
// room: who fills the inbox looks whether it is full beforehand.
func (i *inbox) put(message []byte, drop bool) {
	if drop {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.queue == nil:
		i.queue = i.first[:0]
	case i.head > 0 && len(i.queue) == cap(i.queue):
		n := copy(i.queue, i.queue[i.head:])
		clear(i.queue[n:])
		i.queue, i.head = i.queue[:n], 0
	}
	i.queue = append(i.queue, message)
	i.size += len(message) + messageCost
	i.wake()
}

// close says that there will be no more messages.
func (i *inbox) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.wake()
}

// full returns nil while there is room, else what is closed when that may have changed.
func (i *inbox) full() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.size < maxInbox {
		return nil
	}
	return i.await()
}

// get waits for the next message. It returns io.EOF after the last, or ctx's error.
func (i *inbox) get(ctx context.Context) ([]byte, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		message, ok, changed := i.next()
		switch {
		case ok:
			return message, nil
		case changed == nil:
			return nil, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// next takes the next message. Where there is none, it returns what is closed when there
// may be; nil: there will be none.
func (i *inbox) next() (message []byte, ok bool, changed <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.head == len(i.queue) {
		if i.closed {
			return nil, false, nil
		}
		return nil, false, i.await()
	}
	message = i.queue[i.head]
	i.queue[i.head] = nil
	i.head++
	if i.head == len(i.queue) {
		i.queue, i.head = i.queue[:0], 0
	}
	i.size -= len(message) + messageCost
	i.wake()
	return message, true, nil
}

func (i *inbox) await() <-chan struct{} {
	if i.changed == nil {
		i.changed = make(chan struct{})
	}
	return i.changed
}

func (i *inbox) wake() {
	if i.changed != nil {
		close(i.changed)
		i.changed = nil
	}
}

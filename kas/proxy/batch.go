package proxy

import (
	"net"
	"sync"
	"time"
)

// TLS writes each of its records to the connection by itself, which for a large answer is
// what costs most: the system has as much to do with a record as with many.

const (
	// fullRecord is what a TLS record holds, in bytes: behind one that is full, more comes.
	fullRecord = 16 << 10
	// batchSize is how much is written at once, in bytes.
	batchSize = 64 << 10
	// closeTime is how long a client may take for what was written before the connection was
	// closed.
	closeTime = 5 * time.Second
)

var batches = sync.Pool{New: func() any { b := make([]byte, 0, batchSize); return &b }}

// batching is a listener whose connections write many records at once. Each is written to
// by one goroutine at a time, as TLS does.
type batching struct {
	net.Listener
	// sending are goroutines of connections.
	sending sync.WaitGroup
}

// Accept implements net.Listener.
func (l *batching) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err //nolint:wrapcheck // it is the listener's
	}
	b := &batched{Conn: conn, listener: l}
	b.changed.L = &b.mu
	return b, nil
}

// batched is a connection that has what it is given in quick succession written together:
// what comes while one batch is being written is the next. A single record is written at once.
type batched struct {
	net.Conn
	listener *batching

	mu      sync.Mutex
	changed sync.Cond
	// waiting is what the next batch will be, of at most batchSize; nil: nothing is being sent.
	waiting *[]byte
	closed  bool
	err     error
}

// Write implements io.Writer. An error may be that of an earlier one.
func (b *batched) Write(p []byte) (int, error) {
	b.mu.Lock()
	for b.err == nil && !b.closed && b.waiting != nil && len(*b.waiting)+len(p) > batchSize {
		b.changed.Wait()
	}
	switch {
	case b.err != nil:
		defer b.mu.Unlock()
		return 0, b.err
	case b.closed:
		defer b.mu.Unlock()
		return 0, net.ErrClosed
	case b.waiting == nil && (len(p) < fullRecord || len(p) > batchSize):
		b.mu.Unlock()
		return b.Conn.Write(p) //nolint:wrapcheck // it is the connection's
	case b.waiting == nil:
		b.waiting = batches.Get().(*[]byte) //nolint:forcetypeassert // there is nothing else in it
		b.listener.sending.Add(1)
		go b.send()
	}
	*b.waiting = append(*b.waiting, p...)
	b.mu.Unlock()
	return len(p), nil
}

// send writes what is waiting until nothing is.
func (b *batched) send() {
	defer b.listener.sending.Done()
	out := batches.Get().(*[]byte) //nolint:forcetypeassert // there is nothing else in it
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && len(*b.waiting) > 0 {
		out, b.waiting = b.waiting, out
		b.changed.Broadcast()
		b.mu.Unlock()
		_, err := b.Conn.Write(*out)
		*out = (*out)[:0]
		b.mu.Lock()
		b.err = err
	}
	*b.waiting = (*b.waiting)[:0]
	batches.Put(out)
	batches.Put(b.waiting)
	b.waiting = nil
	b.changed.Broadcast()
	if b.closed {
		_ = b.Conn.Close() // Close has returned
	}
}

// SetDeadline implements net.Conn.
func (b *batched) SetDeadline(t time.Time) error {
	if err := b.SetReadDeadline(t); err != nil {
		return err //nolint:wrapcheck // it is the connection's
	}
	return b.SetWriteDeadline(t)
}

// SetWriteDeadline implements net.Conn. What was written already has closeTime at least: TLS
// ends writing with a deadline that has passed.
func (b *batched) SetWriteDeadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting != nil && !t.IsZero() {
		if least := time.Now().Add(closeTime); t.Before(least) {
			t = least
		}
	}
	return b.Conn.SetWriteDeadline(t) //nolint:wrapcheck // it is the connection's
}

// Close implements io.Closer. What was written goes out before the connection ends, in the
// background, unless the client does not take it in closeTime. Nothing is read any more.
func (b *batched) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return net.ErrClosed
	}
	b.closed = true
	b.changed.Broadcast()
	if b.waiting == nil {
		return b.Conn.Close() //nolint:wrapcheck // it is the connection's
	}
	_ = b.SetReadDeadline(longAgo)
	return b.Conn.SetWriteDeadline(time.Now().Add(closeTime)) //nolint:wrapcheck // it is the connection's
}

package wstransport

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// rawConn is what a client's WebSocket goes over the network on.
//
// It remembers how the other end began and whether it hung up, for net/http has no such
// errors. And it sends a message at once that the WebSocket library masks and writes by
// 4 KiB.
type rawConn struct {
	net.Conn
	began  atomic.Int32
	hungUp atomic.Bool

	mu sync.Mutex
	// held is true while a message is written, and pending what there is of it.
	held    bool
	pending []byte
}

// How the other end began: unheard, or the first byte that it sent and this.
const heard = 1 << 8

// Read implements net.Conn.
func (c *rawConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.began.Load() == 0 {
		c.began.Store(heard | int32(p[0]))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		c.hungUp.Store(true)
	}
	return n, err //nolint:wrapcheck // this is a net.Conn
}

// Write implements net.Conn. It keeps what it is given while it is held.
func (c *rawConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.held {
		defer c.mu.Unlock()
		c.pending = append(c.pending, p...)
		return len(p), nil
	}
	c.mu.Unlock()
	return c.Conn.Write(p) //nolint:wrapcheck // this is a net.Conn
}

// hold has what is written kept until release. What others write meanwhile, such as an
// answer to a ping, goes along with it.
func (c *rawConn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

// unblock closes the connection if a release is under way: TLS would wait for it before
// it closes.
func (c *rawConn) unblock() {
	if c.mu.TryLock() {
		c.mu.Unlock()
		return
	}
	_ = c.Close() // it is closed again
}

// release sends what was kept.
func (c *rawConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock() // nobody may get ahead of it
	c.held = false
	_, err := c.Conn.Write(c.pending)
	c.pending = c.pending[:0]
	return err //nolint:wrapcheck // conn.failed says what it was about
}

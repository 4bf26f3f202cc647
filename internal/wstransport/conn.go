package wstransport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// maxMessage is the largest message that is sent, in bytes: gRPC's own writes are no
// larger, and intermediaries may hold whole messages in memory.
const maxMessage = 32 << 10

// errText is returned for a message that is not binary.
var errText = errors.New("a text message came where binary ones are expected")

// conn is a WebSocket as a net.Conn.
type conn struct {
	ws            *websocket.Conn
	local, remote net.Addr
	// secure is the TLS connection of a client; nil: there is none.
	secure *tls.ConnectionState
	// raw is a client's; nil: this is the server's end.
	raw *rawConn

	closed              atomic.Bool
	reading, writing    deadline
	readOrder, writeOne sync.Mutex
	// message is being read; nil between two. readOrder guards it.
	message io.Reader
}

func newConn(ws *websocket.Conn, local, remote net.Addr) *conn {
	ws.SetReadLimit(-1) // messages are not kept
	return &conn{ws: ws, local: local, remote: remote}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.readOrder.Lock()
	defer c.readOrder.Unlock()
	if err := c.reading.begin(); err != nil {
		return 0, c.failed("read", err)
	}
	n, err := c.read(p)
	if c.reading.end() && err != nil {
		err = os.ErrDeadlineExceeded
	}
	return n, c.failed("read", err)
}

func (c *conn) read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.Reader(background())
			if err != nil {
				return 0, err //nolint:wrapcheck // failed says what it was about
			}
			if kind != websocket.MessageBinary {
				return 0, errText
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) { // of the message
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.writeOne.Lock()
	defer c.writeOne.Unlock()
	if err := c.writing.begin(); err != nil {
		return 0, c.failed("write", err)
	}
	written := 0
	var err error
	for err == nil && written < len(p) {
		message := p[written:min(len(p), written+maxMessage)]
		if err = c.send(message); err == nil {
			written += len(message)
		}
	}
	if c.writing.end() && err != nil {
		err = os.ErrDeadlineExceeded
	}
	return written, c.failed("write", err)
}

func (c *conn) send(message []byte) error {
	if c.raw == nil {
		return c.ws.Write(background(), websocket.MessageBinary, message) //nolint:wrapcheck // failed says what it was about
	}
	c.raw.hold()
	err := c.ws.Write(background(), websocket.MessageBinary, message)
	if releaseErr := c.raw.release(); err == nil {
		err = releaseErr
	}
	return err
}

// failed returns what net.Conn promises for err: io.EOF where the other end is gone.
func (c *conn) failed(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
	case c.closed.Load():
		err = net.ErrClosed
	case op == "read" && ended(err):
		return io.EOF
	}
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}

// ended says that err is an end of the connection between two messages, with or without
// the words that WebSocket has for it.
func ended(err error) bool {
	code := websocket.CloseStatus(err)
	return errors.Is(err, io.EOF) || code == websocket.StatusNormalClosure || code == websocket.StatusGoingAway
}

// Close implements net.Conn.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return c.failed("close", net.ErrClosed)
	}
	c.reading.stop()
	c.writing.stop()
	if err := c.end(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close a WebSocket: %w", err)
	}
	return nil
}

// end closes the connection and waits for nobody.
func (c *conn) end() error {
	if c.raw != nil {
		c.raw.unblock()
	}
	return c.ws.CloseNow() //nolint:wrapcheck // Close says what it was about
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn. It may be a proxy's or a load balancer's.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.set(&c.reading, t) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(&c.writing, t) }

func (c *conn) set(d *deadline, t time.Time) error {
	if c.closed.Load() {
		return c.failed("set", net.ErrClosed)
	}
	d.set(t, func() { _ = c.end() }) // nobody is left to be told
	return nil
}

const network = "websocket"

// background is the context of reads and writes: Close and deadlines end them.
func background() context.Context {
	return context.Background() //nolint:forbidigo // net.Conn knows no contexts
}

package kas

import (
	"net"
	"sync/atomic"
	"time"
)

// noted is a listener whose connections remember how they ended, for whoever asks their
// remote address: gRPC does not tell, and a stream only knows that there is no connection any
// more. It costs one system call when a connection is closed.
type noted struct{ net.Listener }

// Accept implements net.Listener.
func (l noted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	tcp, ok := conn.(*net.TCPConn)
	if err != nil || !ok {
		return conn, err //nolint:wrapcheck // servers decide on it
	}
	return &notedConn{TCPConn: tcp, from: &origin{Addr: tcp.RemoteAddr(), since: time.Now()}}, nil
}

// notedConn is a connection that looks at itself before it is closed.
type notedConn struct {
	*net.TCPConn
	from *origin
}

// RemoteAddr implements net.Conn.
func (c *notedConn) RemoteAddr() net.Addr { return c.from }

// Close implements net.Conn.
func (c *notedConn) Close() error {
	if c.from.ending.Load() == nil {
		why := endingOf(c.TCPConn)
		c.from.ending.CompareAndSwap(nil, &why)
	}
	return c.TCPConn.Close() //nolint:wrapcheck // servers decide on it
}

// origin is the other end of a connection.
type origin struct {
	net.Addr
	// since is when the connection was made.
	since  time.Time
	ending atomic.Pointer[string]
}

// Ending says how the connection ended. Empty: it has not.
func (o *origin) Ending() string {
	if why := o.ending.Load(); why != nil {
		return *why
	}
	return ""
}

// How connections end.
const (
	endedSomehow = "its connection has ended"
	endedByAgent = "the connection was closed from the agent's side: agentk was stopped or killed, or something in between closed it"
	endedSilent  = "kas hung up because the agent gave no sign of life: its machine or the network is down, or agentk hangs"
	endedByKas   = "kas hung up: the agent gave no sign of life, or broke the rules of HTTP/2"
)

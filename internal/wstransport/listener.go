package wstransport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Defaults of ListenerConfig.
const (
	DefaultMaxHandshakes    = 500
	DefaultHandshakeTimeout = 10 * time.Second
)

// maxHeaders of an upgrade, in bytes.
const maxHeaders = 16 << 10

// ListenerConfig configures a Listener.
type ListenerConfig struct {
	// TLS makes it wss://; nil: ws://.
	TLS *tls.Config
	// MaxHandshakes go on at once; more wait. Zero: DefaultMaxHandshakes.
	MaxHandshakes int
	// HandshakeTimeout is how long each of TLS, the upgrade's request and its answer may
	// take. Zero: DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// ErrorLog is told of handshakes that failed; nil: nobody is.
	ErrorLog *log.Logger
}

// Listener is a net.Listener that accepts WebSockets on another one, whatever the
// path of their URL. Run must be called.
type Listener struct {
	inner    net.Listener
	tls      *tls.Config
	http     *http.Server
	accepted chan net.Conn
	closed   chan struct{}
	closing  sync.Once
	// slots of handshakes; one is taken by each connection that has not upgraded yet.
	slots chan struct{}
	// goroutines are http's for connections that have not upgraded, and handlers.
	goroutines sync.WaitGroup
}

// NewListener returns a listener that accepts on inner and closes it.
func NewListener(inner net.Listener, cfg ListenerConfig) *Listener {
	if cfg.MaxHandshakes == 0 {
		cfg.MaxHandshakes = DefaultMaxHandshakes
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if cfg.ErrorLog == nil {
		cfg.ErrorLog = log.New(nowhere{}, "", 0)
	}
	l := &Listener{
		inner:    inner,
		accepted: make(chan net.Conn),
		closed:   make(chan struct{}),
		slots:    make(chan struct{}, cfg.MaxHandshakes),
	}
	if cfg.TLS != nil {
		l.tls = cfg.TLS.Clone()
		l.tls.NextProtos = []string{"http/1.1"} // HTTP/2 upgrades otherwise, which few pass on
	}
	l.http = &http.Server{
		Handler:           http.HandlerFunc(l.upgrade),
		ReadHeaderTimeout: cfg.HandshakeTimeout,
		ReadTimeout:       cfg.HandshakeTimeout,
		WriteTimeout:      cfg.HandshakeTimeout,
		MaxHeaderBytes:    maxHeaders,
		ConnState:         l.count,
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:          cfg.ErrorLog,
	}
	l.http.SetKeepAlivesEnabled(false) // one upgrade, or one refusal
	return l
}

// nowhere is a writer that keeps nothing.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// connKey is the key of a request's net.Conn in its context.
type connKey struct{}

// Run takes handshakes until ctx ends or Close is called.
func (l *Listener) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	var inner net.Listener = &gate{Listener: l.inner, slots: l.slots, closed: l.closed}
	if l.tls != nil {
		inner = tls.NewListener(inner, l.tls)
	}
	err := l.http.Serve(inner)
	l.close()
	l.goroutines.Wait()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("take WebSockets: %w", err)
}

// gate accepts a connection only when there is a slot for its handshake.
type gate struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case g.slots <- struct{}{}:
	case <-g.closed:
		return nil, net.ErrClosed
	}
	c, err := g.Listener.Accept()
	if err != nil {
		<-g.slots
		return nil, err //nolint:wrapcheck // net/http looks at it
	}
	return c, nil
}

// count follows connections: each is new once, and once either closed or hijacked.
func (l *Listener) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.goroutines.Add(1)
	case http.StateClosed, http.StateHijacked:
		<-l.slots
		l.goroutines.Done()
	}
}

// upgrade answers a request.
func (l *Listener) upgrade(w http.ResponseWriter, r *http.Request) {
	l.goroutines.Add(1) // one more: the other is given back in mid-upgrade
	defer l.goroutines.Done()
	if !asksFor(r.Header) {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "Agents connect here, by WebSocket with the subprotocol "+Subprotocol+": --kas-address=ws[s]://HOST:PORT/PATH", http.StatusUpgradeRequired)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
	if err != nil {
		return // the peer has been told
	}
	raw, _ := r.Context().Value(connKey{}).(net.Conn) // ConnContext put it there
	c := newConn(ws, raw.LocalAddr(), raw.RemoteAddr())
	select {
	case l.accepted <- c:
	case <-l.closed:
		_ = c.Close() // nobody wants it any more
	}
}

func asksFor(h http.Header) bool {
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		if slices.ContainsFunc(strings.Split(line, ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), Subprotocol) }) {
			return true
		}
	}
	return false
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: network, Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close implements net.Listener: handshakes end, connections that were accepted do not.
func (l *Listener) Close() error {
	l.close()
	return nil
}

func (l *Listener) close() {
	l.closing.Do(func() {
		close(l.closed)
		// Nothing is lost with what has not been accepted.
		_ = l.inner.Close()
		_ = l.http.Close()
	})
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

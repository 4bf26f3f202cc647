package wstransport

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"
)

// DefaultDialTimeout is that of a Dialer that has none.
const DefaultDialTimeout = 10 * time.Second

// Dialer connects to a Listener. Its fields must not change once it is used.
type Dialer struct {
	// URL of the listener: ws://HOST[:PORT]/PATH or wss://HOST[:PORT]/PATH.
	URL *url.URL
	// TLS, for wss://; nil: the system's authorities.
	TLS *tls.Config
	// UserAgent says who asks; load balancers log it.
	UserAgent string
	// Timeout of one Dial. Zero: DefaultDialTimeout.
	Timeout time.Duration
	// Proxy to go through; nil: http.ProxyFromEnvironment, where HTTPS_PROXY is for wss://
	// and HTTP_PROXY for ws://.
	Proxy func(*http.Request) (*url.URL, error)
}

func (d *Dialer) secure() bool { return d.URL.Scheme == "wss" }

// Dial is for grpc.WithContextDialer. It always dials the URL. ctx bounds the handshake,
// not the connection.
func (d *Dialer) Dial(ctx context.Context, _ string) (net.Conn, error) {
	timeout := d.Timeout
	if timeout == 0 {
		timeout = DefaultDialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	h := &handshake{ctx: ctx, dialer: d}
	ws, response, err := websocket.Dial(ctx, d.URL.String(), h.options()) //nolint:bodyclose // it is the connection
	switch {
	case err != nil && response == nil && ctx.Err() != nil:
		return nil, d.failure("no answer: %w", ctx.Err()) // whatever that made of err
	case err != nil:
		return nil, d.explain(err, response, h.raw)
	}
	if ws.Subprotocol() != Subprotocol {
		_ = ws.CloseNow() // it is a stranger's
		return nil, d.failure("a WebSocket is there, but not that of a kas: check host and path")
	}
	if !h.succeed() {
		_ = ws.CloseNow() // it is closed already
		return nil, d.failed(context.Cause(ctx))
	}
	c := newConn(ws, h.raw.LocalAddr(), h.raw.RemoteAddr())
	c.raw = h.raw
	if d.secure() {
		c.secure = response.TLS
	}
	return c, nil
}

func dontFollow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// handshake is one Dial: what it opens is closed when its context ends, unless it has
// succeeded before.
type handshake struct {
	ctx    context.Context //nolint:containedctx // net/http dials with another one, which nobody ends
	dialer *Dialer
	raw    *rawConn
	stop   func() bool
}

// succeed says that the connection is to stay; false: it is too late for that.
func (h *handshake) succeed() bool { return h.stop() }

func (h *handshake) options() *websocket.DialOptions {
	return &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: h.transport(), CheckRedirect: dontFollow},
		HTTPHeader:   http.Header{"User-Agent": {h.dialer.UserAgent}},
		Subprotocols: []string{Subprotocol},
	}
}

// transport is good for one request.
func (h *handshake) transport() *http.Transport {
	t := &http.Transport{
		Proxy:                  h.dialer.Proxy,
		DialContext:            h.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeaders,
		OnProxyConnectResponse: h.dialer.proxied,
	}
	if t.Proxy == nil {
		t.Proxy = http.ProxyFromEnvironment
	}
	if h.dialer.TLS != nil {
		t.TLSClientConfig = h.dialer.TLS.Clone()
	}
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return t
}

func (h *handshake) dial(_ context.Context, network, address string) (net.Conn, error) {
	tcp, err := (&net.Dialer{}).DialContext(h.ctx, network, address) //nolint:contextcheck // see handshake
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the address
	}
	h.raw = &rawConn{Conn: tcp}
	h.stop = context.AfterFunc(h.ctx, func() { _ = tcp.Close() }) //nolint:contextcheck // see handshake
	return h.raw, nil
}

package wstransport

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
)

// serveGRPC serves health over l until the test ends.
func serveGRPC(t *testing.T, l net.Listener, options ...grpc.ServerOption) {
	t.Helper()
	s := grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- testkit.Serve(s, l) }()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, <-served)
	})
}

func TestDialer_CarriesGRPC(t *testing.T) {
	server, trust := certificates(t)
	for scheme, cfg := range map[string]*tls.Config{"ws": nil, "wss": server} {
		t.Run(scheme, func(t *testing.T) {
			l := listen(t, ListenerConfig{TLS: cfg})
			var seen atomic.Pointer[string]
			serveGRPC(t, l, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				p, _ := peer.FromContext(ctx)
				address := p.Addr.String()
				seen.Store(&address)
				return handler(ctx, req)
			}))
			d := dialer(scheme, l.Addr(), trust)
			// The handshake's context ends with the handshake.
			dialed := make(chan net.Conn, 1)
			dial := func(ctx context.Context, address string) (net.Conn, error) {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				c, err := d.Dial(ctx, address)
				dialed <- c
				return c, err
			}
			conn, err := grpc.NewClient("passthrough:///x", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(d.Credentials()))
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			for range 3 {
				_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
				require.NoError(t, err)
			}
			require.Equal(t, (<-dialed).LocalAddr().String(), *seen.Load())
		})
	}
}

// A token that must not travel in the clear goes over wss:// and nothing else.
func TestDialer_TokensGoOverTLSAlone(t *testing.T) {
	server, trust := certificates(t)
	token := grpc.WithPerRPCCredentials(grpctool.TokenCredentials{Token: func() (string, error) { return "secret", nil }})
	check := func(d *Dialer, creds credentials.TransportCredentials) error {
		conn, err := grpc.NewClient("passthrough:///x", grpc.WithContextDialer(d.Dial), grpc.WithTransportCredentials(creds), token)
		if err != nil {
			return err
		}
		defer func() { require.NoError(t, conn.Close()) }()
		_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		return err
	}
	secure, plain := listen(t, ListenerConfig{TLS: server}), listen(t, ListenerConfig{})
	serveGRPC(t, secure)
	serveGRPC(t, plain)
	overTLS, overTCP := dialer("wss", secure.Addr(), trust), dialer("ws", plain.Addr(), nil)
	require.NoError(t, check(overTLS, overTLS.Credentials()))
	require.ErrorContains(t, check(overTCP, overTCP.Credentials()), "transport level security")
	require.ErrorContains(t, check(overTCP, overTLS.Credentials()), errNotSecure.Error())
	_, _, err := overTLS.Credentials().ServerHandshake(nil)
	require.ErrorIs(t, err, errClient)
}

// answering is an HTTP server that answers one thing.
func answering(t *testing.T, secure bool, handler http.HandlerFunc) net.Addr {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr()
}

func TestDialer_SaysWhatIsWrong(t *testing.T) {
	cfg, trust := certificates(t)
	strange := func(w http.ResponseWriter, r *http.Request) {
		if ws, err := websocket.Accept(w, r, nil); err == nil {
			_ = ws.CloseNow()
		}
	}
	for _, row := range []struct {
		name, scheme string
		where        func() net.Addr
		want         string
	}{
		{"a path that is not there", "ws", func() net.Addr { return answering(t, false, http.NotFound) },
			`the answer is 404 Not Found, not a WebSocket: check the path (it says "404 page not found")`},
		{"the same over TLS", "wss", func() net.Addr { return answering(t, true, http.NotFound) }, "404 Not Found"},
		{"a page", "ws", func() net.Addr {
			return answering(t, false, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>\nhello")) })
		}, `the answer is 200 OK, not a WebSocket: check host, port and path, and that the load balancer there passes WebSockets on (it says "<html>")`},
		{"a redirect", "ws", func() net.Addr {
			return answering(t, false, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://else.where/", http.StatusFound)
			})
		}, `redirects are not followed, write the final address ("https://else.where/")`},
		{"a load balancer without kas", "ws", func() net.Addr {
			return answering(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		}, "502 Bad Gateway, not a WebSocket: the load balancer there does not reach kas"},
		{"something that asks who this is", "ws", func() net.Addr {
			return answering(t, false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
		}, "something before kas does not let it through"},
		{"another WebSocket", "ws", func() net.Addr { return answering(t, false, strange) },
			"a WebSocket is there, but not that of a kas: check host and path"},
		{"gRPC", "ws", func() net.Addr {
			l := listenTCP(t)
			serveGRPC(t, l)
			return l.Addr()
		}, "no WebSocket is spoken there; if it is gRPC, use grpc://"},
		{"gRPC over TLS", "wss", func() net.Addr {
			l := listenTCP(t)
			serveGRPC(t, l, grpc.Creds(credentials.NewTLS(cfg)))
			return l.Addr()
		}, "it hangs up without an answer; if gRPC is spoken there, use grpc:// or grpcs://"},
		{"gRPC over TLS, without TLS", "ws", func() net.Addr {
			l := listenTCP(t)
			serveGRPC(t, l, grpc.Creds(credentials.NewTLS(cfg)))
			return l.Addr()
		}, "it hangs up without an answer; if gRPC is spoken there, use grpc:// or grpcs://"},
		{"a WebSocket over TLS, without TLS", "ws", func() net.Addr { return listen(t, ListenerConfig{TLS: cfg}).Addr() },
			"Client sent an HTTP request to an HTTPS server."},
		{"a WebSocket without TLS, over TLS", "wss", func() net.Addr { return listen(t, ListenerConfig{}).Addr() },
			"no TLS is spoken there; use ws:// or grpc:// where that is safe"},
		{"gRPC without TLS, over TLS", "wss", func() net.Addr {
			l := listenTCP(t)
			serveGRPC(t, l)
			return l.Addr()
		}, "no TLS is spoken there; use ws:// or grpc:// where that is safe"},
		{"nobody", "ws", func() net.Addr {
			l := listenTCP(t)
			require.NoError(t, l.Close())
			return l.Addr()
		}, "connection refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := dialer(row.scheme, row.where(), trust)
			_, err := d.Dial(t.Context(), "")
			require.ErrorContains(t, err, row.want)
			require.ErrorContains(t, err, "connect to "+d.URL.String())
		})
	}
}

func TestDialer_DoesNotTrustAnUnknownCertificate(t *testing.T) {
	server, _ := certificates(t)
	l := listen(t, ListenerConfig{TLS: server})
	_, err := dialer("wss", l.Addr(), nil).Dial(t.Context(), "")
	require.ErrorContains(t, err, "its certificate is not trusted: tls: failed to verify certificate: x509: certificate signed by unknown authority")
}

// Whatever a server does, a dial ends in time and leaves nothing behind.
func TestDialer_EndsInTime(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			l := listenTCP(t) // the kernel takes connections, and nobody answers
			d := dialer(scheme, l.Addr(), nil)
			d.Timeout = 50 * time.Millisecond
			_, err := d.Dial(t.Context(), "")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			d.Timeout = 0
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			_, err = d.Dial(ctx, "")
			require.ErrorIs(t, err, context.Canceled)
		})
	}
}

// forwardProxy is what companies have: CONNECT for TLS, and HTTP passed on.
type forwardProxy struct {
	*httptest.Server
	asked  chan string
	refuse atomic.Bool
}

func startProxy(t *testing.T) *forwardProxy {
	t.Helper()
	p := &forwardProxy{asked: make(chan string, 10)}
	plain := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL = r.In.URL }}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked <- r.Method + " " + r.Host + " " + r.UserAgent()
		switch {
		case p.refuse.Load():
			http.Error(w, "no", http.StatusProxyAuthRequired)
		case r.Method == http.MethodConnect:
			tunnel(t, w, r)
		default:
			plain.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func tunnel(t *testing.T, w http.ResponseWriter, r *http.Request) {
	t.Helper()
	there, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = fmt.Fprint(here, "HTTP/1.1 200 OK\r\n\r\n")
	var g errgroup.Group
	for _, ends := range [][2]net.Conn{{here, there}, {there, here}} {
		g.Go(func() error {
			_, _ = io.Copy(ends[0], ends[1])
			_ = here.Close()
			_ = there.Close()
			return nil
		})
	}
	_ = g.Wait()
}

func TestDialer_GoesThroughAProxy(t *testing.T) {
	server, trust := certificates(t)
	for scheme, row := range map[string]struct {
		cfg    *tls.Config
		method string
	}{"ws": {nil, http.MethodGet}, "wss": {server, http.MethodConnect}} {
		t.Run(scheme, func(t *testing.T) {
			proxy := startProxy(t)
			l := listen(t, ListenerConfig{TLS: row.cfg})
			serveGRPC(t, l)
			d := dialer(scheme, l.Addr(), trust)
			d.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
			conn, err := grpc.NewClient("passthrough:///x", grpc.WithContextDialer(d.Dial), grpc.WithTransportCredentials(d.Credentials()))
			require.NoError(t, err)
			defer func() { require.NoError(t, conn.Close()) }()
			_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			require.NoError(t, err)
			asked := <-proxy.asked
			require.True(t, strings.HasPrefix(asked, row.method+" "+l.Addr().String()), asked)

			proxy.refuse.Store(true)
			_, err = d.Dial(t.Context(), "")
			require.ErrorContains(t, err, "407 Proxy Authentication Required")
		})
	}
}

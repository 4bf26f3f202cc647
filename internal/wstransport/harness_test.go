package wstransport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// certificates returns a server's TLS configuration and that of a client that trusts it.
func certificates(tb testing.TB) (server, client *tls.Config) {
	tb.Helper()
	web := httptest.NewTLSServer(nil)
	web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	return &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12},
		&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

func listenTCP(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

// listen runs a Listener until the test ends.
func listen(tb testing.TB, cfg ListenerConfig) *Listener {
	tb.Helper()
	l := NewListener(listenTCP(tb), cfg)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(context.WithoutCancel(tb.Context())) }()
	tb.Cleanup(func() {
		require.NoError(tb, l.Close())
		require.NoError(tb, <-ended)
	})
	return l
}

// noProxy has a Dialer connect directly, whatever the environment says.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

func dialer(scheme string, address net.Addr, cfg *tls.Config) *Dialer {
	return &Dialer{URL: &url.URL{Scheme: scheme, Host: address.String(), Path: "/-/kas"}, TLS: cfg, UserAgent: "test/1", Proxy: noProxy}
}

// pair is both ends of a connection.
func pair(tb testing.TB, scheme string) (client, server net.Conn) {
	tb.Helper()
	var cfg ListenerConfig
	var trust *tls.Config
	if scheme == "wss" {
		cfg.TLS, trust = certificates(tb)
	}
	l := listen(tb, cfg)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	client, err := dialer(scheme, l.Addr(), trust).Dial(tb.Context(), "")
	require.NoError(tb, err)
	server = <-accepted
	tb.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	return client, server
}

// everyScheme runs a test over ws:// and wss://, from both ends.
func everyScheme(t *testing.T, test func(t *testing.T, one, other net.Conn)) {
	t.Helper()
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme+", the client's end", func(t *testing.T) {
			client, server := pair(t, scheme)
			test(t, client, server)
		})
		t.Run(scheme+", the server's end", func(t *testing.T) {
			client, server := pair(t, scheme)
			test(t, server, client)
		})
	}
}

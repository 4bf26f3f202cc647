package wstransport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kas-agentk/kas/internal/testkit"
)

func TestListener_TellsOthersWhatItIs(t *testing.T) {
	l := listen(t, ListenerConfig{})
	for name, header := range map[string]http.Header{
		"a browser":             {},
		"a foreign WebSocket":   {"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"chat"}},
		"one without a version": {"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"chat, " + Subprotocol}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/any/path", http.NoBody)
			require.NoError(t, err)
			r.Header = header
			answer, err := (&http.Transport{}).RoundTrip(r) // it is the listener that closes
			require.NoError(t, err)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			if name == "one without a version" {
				require.Equal(t, http.StatusBadRequest, answer.StatusCode)
				return
			}
			require.Equal(t, http.StatusUpgradeRequired, answer.StatusCode)
			require.Contains(t, string(body), "--kas-address=ws[s]://HOST:PORT/PATH")
		})
	}
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	require.ErrorContains(t, err, "HTTP/1.1 header")
}

// silent connects and says nothing.
func silent(t *testing.T, address net.Addr) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// dialPatiently tries again where the machine is too slow for a short handshake.
func dialPatiently(t *testing.T, d *Dialer) (c net.Conn) {
	t.Helper()
	testkit.Eventually(t, func() (err error) {
		c, err = d.Dial(t.Context(), "")
		return err
	})
	return c
}

func TestListener_HandshakesAreBoundedInTimeAndNumber(t *testing.T) {
	for scheme, beginning := range map[string]string{"ws": "GET / HTTP/1.1\r\nHost: x\r\n", "wss": "\x16\x03\x01"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			cfg := ListenerConfig{MaxHandshakes: 2, HandshakeTimeout: time.Second}
			server, trust := certificates(t)
			if scheme == "wss" {
				cfg.TLS = server
			}
			l := listen(t, cfg)
			accepted := make(chan net.Conn, 1)
			go func() {
				c, _ := l.Accept()
				accepted <- c
			}()
			began := time.Now()
			slow := []net.Conn{silent(t, l.Addr()), silent(t, l.Addr())}
			_, err := slow[1].Write([]byte(beginning)) // and no end of it
			require.NoError(t, err)
			c := dialPatiently(t, dialer(scheme, l.Addr(), trust))
			require.GreaterOrEqual(t, time.Since(began), cfg.HandshakeTimeout, "it had to wait for a slot")
			require.NoError(t, c.Close())
			require.NoError(t, (<-accepted).Close())
			for _, one := range slow {
				_, err := io.Copy(io.Discard, one)
				require.True(t, err == nil || errors.Is(err, syscall.ECONNRESET), "the listener has closed it, whether it had read what came or not: %v", err)
			}
			testkit.Eventually(t, func() error {
				if n := len(l.slots); n != 1 {
					return fmt.Errorf("%d slots are taken: all but that of the next connection are to be free", n)
				}
				return nil
			})
		})
	}
}

func TestListener_CloseEndsHandshakesAndLeavesConnections(t *testing.T) {
	l := NewListener(listenTCP(t), ListenerConfig{})
	ended := make(chan error, 1)
	go func() { ended <- l.Run(t.Context()) }()
	first := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		first <- c
	}()
	client, err := dialer("ws", l.Addr(), nil).Dial(t.Context(), "")
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	server := <-first
	defer func() { require.NoError(t, server.Close()) }()

	inHandshake := silent(t, l.Addr())
	// Upgraded, and nobody accepts it.
	waiting, err := dialer("ws", l.Addr(), nil).Dial(t.Context(), "")
	require.NoError(t, err)
	defer func() { _ = waiting.Close() }()
	require.NoError(t, l.Close())
	require.NoError(t, <-ended)
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	for name, c := range map[string]net.Conn{"one in handshake": inHandshake, "one that waits": waiting} {
		_, err = io.Copy(io.Discard, c)
		require.True(t, err == nil || !isTimeout(err), "%s: %v", name, err)
	}
	_, err = client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	require.NoError(t, err)
}

func isTimeout(err error) bool {
	netErr, ok := err.(net.Error) //nolint:errorlint // io.Copy returns it as it is
	return ok && netErr.Timeout()
}

func TestListener_SaysWhyItEnds(t *testing.T) {
	inner := listenTCP(t)
	l := NewListener(inner, ListenerConfig{})
	require.NoError(t, l.Close())
	require.NoError(t, l.Run(t.Context()), "closed before it ran")

	broken := NewListener(brokenListener{listenTCP(t)}, ListenerConfig{})
	require.ErrorIs(t, broken.Run(t.Context()), io.ErrUnexpectedEOF)
	_, err := broken.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, io.ErrUnexpectedEOF }

func TestListener_TimeOutsEndWithTheHandshake(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			cfg := ListenerConfig{HandshakeTimeout: time.Second}
			server, trust := certificates(t)
			if scheme == "wss" {
				cfg.TLS = server
			}
			l := listen(t, cfg)
			read := make(chan error, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					_, err = io.ReadFull(c, make([]byte, 1))
					_ = c.Close()
				}
				read <- err
			}()
			c := dialPatiently(t, dialer(scheme, l.Addr(), trust))
			defer func() { _ = c.Close() }()
			wrote := make(chan error, 1)
			time.AfterFunc(cfg.HandshakeTimeout*5/4, func() {
				_, err := c.Write([]byte("x"))
				wrote <- err
			})
			require.NoError(t, <-wrote)
			require.NoError(t, <-read)
		})
	}
}

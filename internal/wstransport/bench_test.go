package wstransport

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkConn is 32 KiB writes, as gRPC makes them, in both directions, beside TCP.
func BenchmarkConn(b *testing.B) {
	for _, scheme := range []string{"tcp", "ws", "wss"} {
		for _, direction := range []string{"to the server", "to the client"} {
			b.Run(scheme+" "+direction, func(b *testing.B) {
				client, server := ends(b, scheme)
				from, to := client, server
				if direction == "to the client" {
					from, to = server, client
				}
				read := make(chan error, 1)
				go func() {
					_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, make([]byte, 32<<10))
					read <- err
				}()
				message := make([]byte, 32<<10)
				b.SetBytes(int64(len(message)))
				for b.Loop() {
					_, err := from.Write(message)
					require.NoError(b, err)
				}
				b.StopTimer()
				require.NoError(b, from.Close())
				require.NoError(b, <-read)
			})
		}
	}
}

// BenchmarkConn_RoundTrip is a byte there and back.
func BenchmarkConn_RoundTrip(b *testing.B) {
	for _, scheme := range []string{"tcp", "ws", "wss"} {
		b.Run(scheme, func(b *testing.B) {
			client, server := ends(b, scheme)
			echoed := make(chan struct{})
			go func() {
				defer close(echoed)
				_, _ = io.CopyBuffer(struct{ io.Writer }{server}, struct{ io.Reader }{server}, make([]byte, 1))
			}()
			one := []byte{1}
			for b.Loop() {
				_, err := client.Write(one)
				require.NoError(b, err)
				_, err = io.ReadFull(client, one)
				require.NoError(b, err)
			}
			b.StopTimer()
			require.NoError(b, client.Close())
			<-echoed
		})
	}
}

// ends are a client's and a server's end of a connection.
func ends(b *testing.B, scheme string) (client, server net.Conn) {
	b.Helper()
	if scheme != "tcp" {
		return pair(b, scheme)
	}
	l := listenTCP(b)
	client, err := (&net.Dialer{Timeout: time.Minute}).DialContext(b.Context(), "tcp", l.Addr().String())
	require.NoError(b, err)
	server, err = l.Accept()
	require.NoError(b, err)
	b.Cleanup(func() { _ = server.Close() })
	return client, server
}

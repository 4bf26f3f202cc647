package wstransport

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
)

// soon is a deadline that comes while a test waits for it.
func soon() time.Time { return time.Now().Add(20 * time.Millisecond) }

func requireTimeout(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	require.True(t, netErr.Timeout())
}

func TestConn_CarriesBytesHoweverTheyAreCut(t *testing.T) {
	everyScheme(t, func(t *testing.T, one, other net.Conn) {
		t.Helper()
		sent := make([]byte, 3<<20)
		_, _ = rand.Read(sent)
		wrote := make(chan error, 1)
		go func() {
			rest := sent
			for size := 1; len(rest) > 0; size = size*3 + 1 {
				n, err := one.Write(rest[:min(size, len(rest))])
				if err != nil {
					wrote <- err
					return
				}
				rest = rest[n:]
			}
			wrote <- one.Close()
		}()
		received, err := io.ReadAll(other)
		require.NoError(t, err, "the end of the connection is io.EOF")
		require.NoError(t, <-wrote)
		require.True(t, bytes.Equal(sent, received))
	})
}

func TestConn_TellsItsAddresses(t *testing.T) {
	everyScheme(t, func(t *testing.T, one, other net.Conn) {
		t.Helper()
		require.Equal(t, one.LocalAddr().String(), other.RemoteAddr().String())
		require.Equal(t, one.RemoteAddr().String(), other.LocalAddr().String())
	})
}

func TestConn_CloseEndsWhatIsUnderWay(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		for end, name := range []string{"the client's end", "the server's end"} {
			t.Run(scheme+", "+name, func(t *testing.T) {
				testkit.Eventually(t, func() error { // whoever waits for the other end does so each time
					client, server := pair(t, scheme)
					if took := closedInMidWork(t, [...]net.Conn{client, server}[end]); took > 4*time.Second {
						return fmt.Errorf("it took %s though nobody is to be waited for", took)
					}
					return nil
				})
			})
		}
	}
}

// closedInMidWork closes a connection on which a read and a write are under way, and tells how
// long that took.
func closedInMidWork(t *testing.T, one net.Conn) time.Duration {
	t.Helper()
	ended := make(chan error, 2)
	go func() {
		_, err := one.Read(make([]byte, 1))
		ended <- err
	}()
	var written atomic.Int64
	go func() { // until the other end, which does not read, takes no more
		for {
			n, err := one.Write(make([]byte, 64<<10))
			written.Add(int64(n))
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	awaitBusy(t, one)
	awaitStandstill(t, &written)
	began := time.Now()
	require.NoError(t, one.Close())
	took := time.Since(began)
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.ErrorIs(t, one.Close(), net.ErrClosed)
	_, err := one.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = one.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, one.SetDeadline(time.Time{}), net.ErrClosed)
	return took
}

// awaitStandstill waits until n has not changed for a while.
func awaitStandstill(t *testing.T, n *atomic.Int64) {
	t.Helper()
	last, same := int64(0), 0
	require.Eventually(t, func() bool {
		if now := n.Load(); now != last {
			last, same = now, 0
		}
		same++
		return same > 20
	}, 30*time.Second, 10*time.Millisecond)
}

// awaitBusy waits until a read and a write are under way.
func awaitBusy(t *testing.T, c net.Conn) {
	t.Helper()
	awaitActive(t, &c.(*conn).reading)
	awaitActive(t, &c.(*conn).writing)
}

func awaitActive(t *testing.T, d *deadline) {
	t.Helper()
	testkit.Eventually(t, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.active {
			return errors.New("nobody reads, or writes")
		}
		return nil
	})
}

func TestConn_DeadlinesCutShort(t *testing.T) {
	everyScheme(t, func(t *testing.T, one, _ net.Conn) {
		t.Helper()
		require.NoError(t, one.SetReadDeadline(time.Now().Add(time.Hour)))
		read := make(chan error, 1)
		go func() {
			_, err := one.Read(make([]byte, 1))
			read <- err
		}()
		awaitActive(t, &one.(*conn).reading) // else the deadline might come before it, and do no harm
		require.NoError(t, one.SetReadDeadline(soon()))
		requireTimeout(t, <-read)
		require.NoError(t, one.SetReadDeadline(time.Time{}))
		_, err := one.Read(make([]byte, 1))
		requireTimeout(t, err) // that was its end
	})
	everyScheme(t, func(t *testing.T, one, _ net.Conn) {
		t.Helper()
		require.NoError(t, one.SetWriteDeadline(soon()))
		var err error
		for err == nil {
			_, err = one.Write(make([]byte, 1<<20))
		}
		requireTimeout(t, err)
	})
}

func TestConn_DeadlinesThatCutNothingShortDoNoHarm(t *testing.T) {
	everyScheme(t, func(t *testing.T, one, other net.Conn) {
		t.Helper()
		require.NoError(t, one.SetDeadline(time.Now().Add(-time.Second)))
		_, err := one.Read(make([]byte, 1))
		requireTimeout(t, err)
		_, err = one.Write([]byte("x"))
		requireTimeout(t, err)
		require.NoError(t, one.SetDeadline(time.Now().Add(time.Hour)))
		require.NoError(t, one.SetDeadline(time.Time{}))
		for _, ends := range [][2]net.Conn{{one, other}, {other, one}} {
			_, err = ends[0].Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(ends[1], make([]byte, 1))
			require.NoError(t, err)
		}
	})
}

func TestConn_ADeadlineMovedInTimeIsNotMissed(t *testing.T) {
	ahead := 10 * time.Millisecond
	testkit.Eventually(t, func() error {
		ahead *= 2
		one, other := pair(t, "ws")
		deadline := time.Now().Add(ahead)
		require.NoError(t, one.SetReadDeadline(deadline))
		read := make(chan error, 1)
		go func() {
			_, err := one.Read(make([]byte, 1))
			read <- err
		}()
		require.NoError(t, one.SetReadDeadline(time.Now().Add(time.Hour)))
		inTime := time.Now().Before(deadline)
		passed := make(chan struct{})
		time.AfterFunc(time.Until(deadline)+30*time.Millisecond, func() { close(passed) })
		<-passed
		if !inTime { // nor is anything known of the read
			_ = one.Close()
			<-read
			return fmt.Errorf("%s were too short to move the deadline", ahead)
		}
		_, err := other.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, <-read)
		return nil
	})
}

// The other end is gone without a word.
func TestConn_NoticesThatTheOtherEndVanished(t *testing.T) {
	l := listen(t, ListenerConfig{})
	d := dialer("ws", l.Addr(), nil)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	h := &handshake{ctx: t.Context(), dialer: d}
	ws, _, err := websocket.Dial(t.Context(), d.URL.String(), h.options()) //nolint:bodyclose // it is the connection
	require.NoError(t, err)
	defer func() { _ = ws.CloseNow() }()
	raw := h.raw
	server := <-accepted
	defer func() { _ = server.Close() }()
	require.NoError(t, raw.Conn.(*net.TCPConn).SetLinger(0)) // a reset
	require.NoError(t, raw.Close())
	_, err = server.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestConn_RefusesText(t *testing.T) {
	l := listen(t, ListenerConfig{})
	d := dialer("ws", l.Addr(), nil)
	h := &handshake{ctx: t.Context(), dialer: d}
	ended := make(chan error, 1)
	go func() {
		server, err := l.Accept()
		if err == nil {
			_, err = server.Read(make([]byte, 1))
			_ = server.Close()
		}
		ended <- err
	}()
	ws, _, err := websocket.Dial(t.Context(), d.URL.String(), h.options()) //nolint:bodyclose // it is the connection
	require.NoError(t, err)
	defer func() { _ = ws.CloseNow() }()
	require.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte("hello")))
	require.ErrorIs(t, <-ended, errText)
}

// A peer, or something on the way, that says good bye as WebSocket has it.
func TestConn_TakesAGoodByeForTheEnd(t *testing.T) {
	client, server := pair(t, "ws")
	closed := make(chan error, 1)
	go func() { closed <- client.(*conn).ws.Close(websocket.StatusGoingAway, "") }()
	_, err := server.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, server.Close())
	<-closed
}

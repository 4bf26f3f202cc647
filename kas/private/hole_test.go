package private

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// hole passes bytes on to a server until it swallows them all, and says nothing of it.
type hole struct {
	address    string
	swallowing atomic.Bool
}

func newHole(tb testing.TB, to string) *hole {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	h := &hole{address: listener.Addr().String()}
	var open sync.WaitGroup
	var mu sync.Mutex
	conns := []io.Closer{listener}
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	open.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			keep(in)
			out, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", to)
			if err != nil {
				return
			}
			keep(out)
			open.Go(func() { h.pass(in, out) })
			open.Go(func() { h.pass(out, in) })
		}
	})
	tb.Cleanup(func() {
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return h
}

func (h *hole) swallow() { h.swallowing.Store(true) }

func (h *hole) pass(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if h.swallowing.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

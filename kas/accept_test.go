package kas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kas-agentk/kas/api/kascfg"
)

func TestBounded_TurnsAwayWhoComesWhenTheLimitIsExhausted(t *testing.T) {
	registry := prometheus.NewRegistry()
	wrap, err := bound(bucket(1e-9, 2), registry)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := wrap(tcp)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				ended <- err
				return
			}
			_, _ = conn.Write([]byte("welcome"))
			_ = conn.Close()
		}
	}()
	for i := range 4 {
		said, err := greeting(t.Context(), tcp.Addr().String())
		switch {
		case i < 2 && (err != nil || said != "welcome"):
			t.Errorf("connection %d was told %q, %v", i, said, err)
		case i >= 2 && !errors.Is(err, syscall.ECONNRESET):
			t.Errorf("connection %d was told %q, %v; want it to be reset", i, said, err)
		}
	}
	if n, err := testutil.GatherAndCount(registry); err != nil || n != 1 {
		t.Errorf("%d metrics, %v", n, err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
}

// greeting is what a connection is told. A reset may be found by dialling already.
func greeting(ctx context.Context, address string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", fmt.Errorf("dial: %w", err)
	}
	said, err := io.ReadAll(conn)
	_ = conn.Close()
	return string(said), err
}

func TestBounded_NoRateIsNoLimit(t *testing.T) {
	wrap, err := bound(&kascfg.TokenBucket{}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if l := (&net.TCPListener{}); wrap(l) != net.Listener(l) {
		t.Error("it is wrapped")
	}
}

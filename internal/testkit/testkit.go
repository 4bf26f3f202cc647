// Package testkit holds what tests of several rooms share.
package testkit

import (
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
)

// Patience is how long Eventually waits before it gives up: long enough for a
// loaded machine, so that only a real fault reaches it.
const Patience = 60 * time.Second

// Logger logs to tb, and only where the test fails or runs with -v.
func Logger(tb testing.TB) *zap.Logger {
	tb.Helper()
	return zaptest.NewLogger(tb, zaptest.Level(zap.DebugLevel))
}

// Serve serves until the server is stopped, which may be before it begins: a test that
// ends early does not wait for that.
func Serve(server *grpc.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Eventually calls check, first at once and then every few milliseconds, until it
// returns nil. It fails the test with check's last error when Patience runs out.
func Eventually(tb testing.TB, check func() error) {
	tb.Helper()
	EventuallyWithin(tb, Patience, check)
}

// EventuallyWithin is Eventually with a patience of its own.
func EventuallyWithin(tb testing.TB, patience time.Duration, check func() error) {
	tb.Helper()
	err := check()
	if err == nil {
		return
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-deadline.C:
			tb.Fatalf("still not so after %s: %v", patience, err)
		case <-tb.Context().Done():
			tb.Fatalf("test ended while waiting: %v", err)
		case <-tick.C:
			if err = check(); err == nil {
				return
			}
		}
	}
}

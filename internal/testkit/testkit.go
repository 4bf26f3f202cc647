// Package testkit holds what tests of several rooms share.
package testkit

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// Patience is how long Eventually waits before it gives up: long enough for a
// loaded machine, so that only a real fault reaches it.
const Patience = 60 * time.Second

// Logger logs to t, and only where the test fails or runs with -v.
func Logger(t testing.TB) *zap.Logger {
	t.Helper()
	return zaptest.NewLogger(t, zaptest.Level(zap.DebugLevel))
}

// Eventually calls check, first at once and then every few milliseconds, until it
// returns nil. It fails the test with check's last error when Patience runs out.
func Eventually(t testing.TB, check func() error) {
	t.Helper()
	EventuallyWithin(t, Patience, check)
}

// EventuallyWithin is Eventually with a patience of its own.
func EventuallyWithin(t testing.TB, patience time.Duration, check func() error) {
	t.Helper()
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
			t.Fatalf("still not so after %s: %v", patience, err)
		case <-t.Context().Done():
			t.Fatalf("test ended while waiting: %v", err)
		case <-tick.C:
			if err = check(); err == nil {
				return
			}
		}
	}
}

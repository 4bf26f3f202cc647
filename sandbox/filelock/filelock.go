// Package filelock keeps processes on one machine out of each other's way with
// flock(2): the kernel drops a lock with its holder, however that ends. The file
// itself stays and holds the process ID of the newest holder, for people.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// every is how often Wait tries a taken lock again.
const every = 100 * time.Millisecond

// TakenError says that another process, or another part of this one, holds a lock.
type TakenError struct {
	Path string
	// PID of the holder, or zero where it is not known.
	PID int
}

// Error implements error.
func (e *TakenError) Error() string {
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// Try takes the lock or fails with a *TakenError.
func Try(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close() //nolint:errcheck // nothing was written
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(file, 32))
		pid, _ := strconv.Atoi(strings.TrimSpace(string(holder)))
		return nil, &TakenError{Path: path, PID: pid}
	}
	if err := errors.Join(file.Truncate(0), write(file, strconv.Itoa(os.Getpid()))); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}

// Wait takes the lock once it is free. It calls waiting, once, where it is not.
func Wait(ctx context.Context, path string, waiting func(*TakenError)) (unlock func(), err error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for first := true; ; first = false {
		unlock, err := Try(path)
		var taken *TakenError
		if !errors.As(err, &taken) {
			return unlock, err
		}
		if first {
			waiting(taken)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a lock: %w", errors.Join(err, ctx.Err()))
		}
	}
}

func write(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text+"\n"), 0)
	return err //nolint:wrapcheck // the caller says what for
}

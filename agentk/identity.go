package agentk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// stateDir is a directory that one agentk process at a time calls its own.
type stateDir struct {
	path string
	lock *os.File
}

// openStateDir makes the directory and locks it. An empty path is no directory, and
// nil is returned.
func openStateDir(path string) (*stateDir, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no directory is a good state directory
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, syscall.EROFS) { // nothing can be kept, but what there is can be used
		lock, err = os.Open(filepath.Join(path, "lock"))
	}
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("--state-dir %s is in use by another agentk: give each its own", path)
		}
		return nil, fmt.Errorf("--state-dir: lock %s: %w", path, err)
	}
	return &stateDir{path: path, lock: lock}, nil
}

// desired is where the store is; empty for a nil stateDir.
func (d *stateDir) desired() string {
	if d == nil {
		return ""
	}
	return filepath.Join(d.path, "desired")
}

// Close gives the directory up. A nil stateDir may be closed.
func (d *stateDir) Close() error {
	if d == nil {
		return nil
	}
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("--state-dir: %w", err)
	}
	return nil
}

// identity is who this replica is to the others. A process that restarts under the
// same identity takes up its Lease at once, so it is the pod's name where there is
// one, else a name kept in the state directory, else a new one.
func identity(podName string, dir *stateDir) (string, error) {
	if podName != "" {
		return podName, nil
	}
	if dir == nil {
		return newIdentity(), nil
	}
	path := filepath.Join(dir.path, "identity")
	data, err := os.ReadFile(path)
	if err == nil {
		if name := strings.TrimSpace(string(data)); name != "" {
			return name, nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("--state-dir: %w", err)
	}
	name := newIdentity()
	temporary := path + ".new"
	err = os.WriteFile(temporary, []byte(name+"\n"), 0o600)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS) {
		return name, nil // it is good for this process
	}
	if err != nil {
		return "", fmt.Errorf("--state-dir: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return "", fmt.Errorf("--state-dir: %w", err)
	}
	return name, nil
}

func newIdentity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "agentk"
	}
	return host + "_" + rand.Text()
}

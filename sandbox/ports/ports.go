// Package ports hands out TCP ports of 127.0.0.1 to servers that are started,
// killed and started again on the same port.
//
// In goes a name per server; out comes a number that is free and stays its own
// until Close. Taking a port from the kernel (":0") and closing it again is not
// enough: while the server is down, any outgoing connection or another test may
// be given the very same port. So the numbers lie below the range from which Linux
// serves ":0" and outgoing connections, and sandboxes keep out of each other's way
// by holding an abstract socket named after the port, which the kernel removes
// with the process. Nothing is left on disk.
//
// A Set may keep its choice in a file, so that a second start prefers the ports
// of the first. No goroutine is started.
package ports

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
)

const (
	// first and last: not privileged, below Linux's ephemeral range (32768 up),
	// and away from what people run on fixed ports.
	first = 21000
	last  = 29999
	// tries before giving up; the range is hardly ever a tenth full.
	tries = 1000
)

// Set is the ports of one instance. Its methods may be called concurrently.
type Set struct {
	file string

	mu     sync.Mutex
	chosen map[string]int
	held   map[string]net.Listener
}

// Open returns a Set that keeps its choice in the file, which need not exist. With
// an empty name the choice is forgotten at Close.
func Open(file string) (*Set, error) {
	s := &Set{file: file, chosen: map[string]int{}, held: map[string]net.Listener{}}
	if file == "" {
		return s, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read chosen ports: %w", err)
	}
	if err := json.Unmarshal(data, &s.chosen); err != nil {
		return nil, fmt.Errorf("read chosen ports: %s: %w", file, err)
	}
	return s, nil
}

// Take returns the port of the server with that name: the same one each time, and
// the one of the Set before it where that is free. It fails when no port is free.
func (s *Set) Take(name string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[name]; ok {
		return s.chosen[name], nil
	}
	if port, ok := s.chosen[name]; ok {
		if hold, free := reserve(port); free {
			s.held[name] = hold
			return port, nil
		}
	}
	for range tries {
		port := first + rand.IntN(last-first+1) //nolint:gosec // it spreads, it keeps no secret
		hold, free := reserve(port)
		if !free {
			continue
		}
		s.held[name], s.chosen[name] = hold, port
		if err := s.save(); err != nil {
			return 0, err
		}
		return port, nil
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 between %d and %d in %d tries", first, last, tries)
}

// Address is Take as "127.0.0.1:port".
func (s *Set) Address(name string) (string, error) {
	port, err := s.Take(name)
	if err != nil {
		return "", err
	}
	return address(port), nil
}

// Close gives all ports back.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, hold := range s.held {
		errs = append(errs, hold.Close())
	}
	clear(s.held)
	return errors.Join(errs...)
}

func (s *Set) save() error {
	if s.file == "" {
		return nil
	}
	data, err := json.Marshal(s.chosen)
	if err != nil {
		return fmt.Errorf("write chosen ports: %w", err)
	}
	if err := os.WriteFile(s.file, data, 0o600); err != nil {
		return fmt.Errorf("write chosen ports: %w", err)
	}
	return nil
}

// reserve holds a port against other Sets, where nobody listens on it.
func reserve(port int) (net.Listener, bool) {
	if port < first || port > last {
		return nil, false
	}
	hold, err := net.Listen("unix", "@kas-agentk-sandbox-port-"+strconv.Itoa(port)) //nolint:noctx // it does not wait
	if err != nil {
		return nil, false
	}
	probe, err := net.Listen("tcp", address(port)) //nolint:noctx // it does not wait
	if err != nil {
		_ = hold.Close()
		return nil, false
	}
	_ = probe.Close()
	return hold, true
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

package plane

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Requests by verb, as Kubernetes calls them: get, list, watch, patch, ….
type Requests map[string]int

// Total of all verbs.
func (r Requests) Total() int {
	total := 0
	for _, n := range r {
		total += n
	}
	return total
}

// Writes are the requests that change something.
func (r Requests) Writes() int {
	return r.Total() - r["get"] - r["list"] - r["watch"]
}

// Meter counts requests of one user agent.
type Meter struct {
	file   *os.File
	prefix string
	// rest is the beginning of a line whose end was not written yet.
	rest []byte
}

// NewMeter counts the requests of user agents that begin so, from now on.
func (p *Plane) NewMeter(userAgent string) (*Meter, error) {
	f, err := os.Open(p.audit)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("read the audit log: %w", err), f.Close())
	}
	return &Meter{file: f, prefix: userAgent}, nil
}

// Take returns the requests since the last Take. A watch counts when it begins,
// everything else when it has been answered. What an election costs is left out.
func (m *Meter) Take() (Requests, error) {
	out := Requests{}
	r := bufio.NewReaderSize(m.file, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			m.rest = append(m.rest, line...)
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		line = append(m.rest, line...)
		m.rest = nil
		if err := m.count(line, out); err != nil {
			return nil, err
		}
	}
}

func (m *Meter) count(line []byte, into Requests) error {
	var e struct {
		Stage     string `json:"stage"`
		Verb      string `json:"verb"`
		UserAgent string `json:"userAgent"`
		ObjectRef struct {
			Resource string `json:"resource"`
		} `json:"objectRef"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	stage := "ResponseComplete"
	if e.Verb == "watch" {
		stage = "ResponseStarted"
	}
	if e.ObjectRef.Resource == "leases" {
		return nil
	}
	if e.Stage == stage && strings.HasPrefix(e.UserAgent, m.prefix) {
		into[e.Verb]++
	}
	return nil
}

// Close frees it.
func (m *Meter) Close() error {
	if err := m.file.Close(); err != nil {
		return fmt.Errorf("close the audit log: %w", err)
	}
	return nil
}

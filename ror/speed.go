package ror

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/registry"
)

const (
	// maxPushes is how many pushes are remembered, and maxMeasured how many projects of
	// agents that they have reached.
	maxPushes   = 1000
	maxMeasured = 100_000
)

// speed measures how soon pushes reach clusters: from the moment that Git has taken one
// until kas has told of it. Nothing is kept when ror ends.
type speed struct {
	clock          clock.PassiveClock
	applied, ready prometheus.Histogram

	mu sync.Mutex
	// pushes, of which there are the newest, by order.
	pushes map[pushed]registry.Push
	order  []pushed
	// measured are the commits that have been, by where they were applied.
	measured map[place]arrived
}

// pushed is a commit that a project has got.
type pushed struct{ project, commit string }

// place is a manifest project of an agent.
type place struct {
	agentID int64
	project string
}

type arrived struct{ applied, ready string }

func newSpeed(registerer prometheus.Registerer, c clock.PassiveClock) (*speed, error) {
	histogram := func(name, until string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Buckets: prometheus.ExponentialBuckets(0.01, 2, 18),
			Help: "From the moment that a push was taken until kas told that " + until + " in a cluster.",
		})
	}
	s := &speed{
		clock:   c,
		applied: histogram("ror_push_applied_seconds", "all of it was applied"),
		ready:   histogram("ror_push_ready_seconds", "all of it was applied and healthy"),
		pushes:  make(map[pushed]registry.Push), measured: make(map[place]arrived),
	}
	for _, c := range []prometheus.Collector{s.applied, s.ready} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return s, nil
}

// pushed notes a push.
func (s *speed) pushed(push registry.Push) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, change := range push.Changes {
		key := pushed{push.Project.FullPath, change.New}
		if _, known := s.pushes[key]; !known {
			s.order = append(s.order, key)
		}
		s.pushes[key] = push
	}
	for len(s.order) > maxPushes {
		delete(s.pushes, s.order[0])
		s.order = s.order[1:]
	}
}

// told measures what a status says that is news.
func (s *speed) told(status *syncstatus.ProjectStatus) {
	commit := status.GetWantedCommit()
	if commit == "" || status.GetAppliedCommit() != commit {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	push, known := s.pushes[pushed{status.GetProjectPath(), commit}]
	if !known {
		return
	}
	where := place{status.GetAgentId(), status.GetProjectId()}
	done, measured := s.measured[where]
	waited := s.clock.Since(push.At).Seconds()
	if done.applied != commit {
		s.applied.Observe(waited)
		done.applied = commit
	}
	if done.ready != commit && status.GetTimes().GetReadyAt() != nil {
		s.ready.Observe(waited)
		done.ready = commit
	}
	if !measured && len(s.measured) >= maxMeasured {
		for other := range s.measured { // any one
			delete(s.measured, other)
			break
		}
	}
	s.measured[where] = done
}

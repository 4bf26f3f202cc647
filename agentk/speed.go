package agentk

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kas-agentk/kas/agentk/desired"
)

// speed measures how soon a set is applied, and ready, once kas has sent it: each set once,
// and none that came from the disk or that people have held up. It belongs to the loop.
type speed struct {
	applied, ready prometheus.Histogram
	// set is being measured; done is how far it is.
	set  *desired.Set
	done struct{ applied, ready bool }
}

// begin begins with a set, unless it is being measured already. suspended: it is not to be.
func (s *speed) begin(set *desired.Set, suspended bool) {
	if s.set != set {
		restored := set.Began.IsZero()
		s.set, s.done.applied, s.done.ready = set, restored, restored
	}
	if suspended {
		s.done.applied, s.done.ready = true, true
	}
}

// isApplied notes that all of the set is.
func (s *speed) isApplied(now time.Time) {
	if !s.done.applied {
		s.done.applied = true
		s.applied.Observe(now.Sub(s.set.Began).Seconds())
	}
}

// isReady notes that what was applied is healthy.
func (s *speed) isReady(now time.Time) {
	if s.done.applied && !s.done.ready {
		s.done.ready = true
		s.ready.Observe(now.Sub(s.set.Began).Seconds())
	}
}

package status

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// speed measures how soon commits reach clusters, as the reports of agents say.
type speed struct {
	applied, ready prometheus.Histogram
}

func newSpeed(registerer prometheus.Registerer) (*speed, error) {
	histogram := func(name, until string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Buckets: prometheus.ExponentialBuckets(0.01, 2, 18),
			Help: "From the moment that the ref was seen at a commit until the agent, which was connected then, reported that " + until + ".",
		})
	}
	s := &speed{
		applied: histogram("kas_sync_applied_seconds", "all of it was applied"),
		ready:   histogram("kas_sync_ready_seconds", "all of it was applied and healthy"),
	}
	for _, c := range []prometheus.Collector{s.applied, s.ready} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return s, nil
}

// arrived are the commits that an agent has said of that they are applied, and ready.
type arrived struct {
	applied, ready string
}

// reported measures what a report says that is news. first: the agent has said nothing
// before, so that it may be long ago. The store's lock is held.
func (s *speed) reported(p *project, first bool, now time.Time) {
	wanted, at := p.source.GetWantedCommit(), p.source.GetTimes().GetDetectedAt()
	if wanted == "" || p.report.GetCommitId() != wanted {
		return
	}
	late := first || at == nil || at.AsTime().Before(p.connectedSince)
	note := func(last *string, there bool, h prometheus.Histogram) {
		if !there || *last == wanted {
			return
		}
		*last = wanted
		if !late {
			h.Observe(max(0, now.Sub(at.AsTime()).Seconds()))
		}
	}
	applied := p.report.GetAppliedCommitId() == wanted
	note(&p.arrived.applied, applied, s.applied)
	note(&p.arrived.ready, applied && p.report.GetReadyAt() != nil, s.ready)
}

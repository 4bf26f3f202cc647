package agentk

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kas-agentk/kas/gitops"
)

// metrics of the agent.
type metrics struct {
	connected    prometheus.Gauge
	offline      prometheus.Gauge
	stateWrites  *prometheus.CounterVec
	leader       prometheus.Gauge
	streamsEnded *prometheus.CounterVec
	syncs        *prometheus.HistogramVec
	applied      prometheus.Histogram
	ready        prometheus.Histogram
	objects      *prometheus.CounterVec
	lastApplied  *prometheus.GaugeVec
	heals        *prometheus.CounterVec
	contested    *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_kas_connected",
			Help: "1 while kas serves this agent's configuration stream, else 0.",
		}),
		offline: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_offline",
			Help: "1 while kas is away and this agent goes on with what it said last, else 0.",
		}),
		stateWrites: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_state_writes_total",
			Help: "Files written to --state-dir, by result (ok, error).",
		}, []string{"result"}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_leader",
			Help: "1 while this replica holds the agent's lease, else 0.",
		}),
		streamsEnded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_kas_streams_ended_total",
			Help: "Streams to kas that ended and were opened again, by stream (configuration, sync, tunnel) and gRPC code.",
		}, []string{"stream", "code"}),
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "agentk_sync_duration_seconds",
			Help:    "How long runs over an object set took, by result (ok, partial, error, preempted).",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 16),
		}, []string{"result"}),
		objects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_objects_total",
			Help: "Objects that runs dealt with, by action.",
		}, []string{"action"}),
		lastApplied: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "agentk_last_applied_timestamp_seconds",
			Help: "When a project's objects were last all applied, in seconds since 1970.",
		}, []string{"project"}),
	}
	m.applied = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "agentk_sync_applied_seconds",
		Help:    "From the moment that an object set began to come from kas until all of it was applied.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 18),
	})
	m.ready = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "agentk_sync_ready_seconds",
		Help:    "From the moment that an object set began to come from kas until all of it was applied and healthy.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 18),
	})
	m.heals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "agentk_heals_total",
		Help: "Objects applied again because somebody else had changed or deleted them, by result (ok, error).",
	}, []string{"result"})
	m.contested = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "agentk_contested_objects",
		Help: "Objects that somebody else keeps changing or deleting, by project.",
	}, []string{"project"})
	for _, c := range []prometheus.Collector{m.connected, m.offline, m.stateWrites, m.leader, m.streamsEnded, m.syncs, m.applied, m.ready, m.objects, m.lastApplied, m.heals, m.contested} {
		if err := reg.Register(c); err != nil {
			return nil, err //nolint:wrapcheck // New says that it is about metrics
		}
	}
	return m, nil
}

// countObjects adds what a run did.
func (m *metrics) countObjects(actions map[gitops.Action]int) {
	for action, n := range actions {
		if name, ok := actionNames[action]; ok {
			m.objects.WithLabelValues(name).Add(float64(n))
		}
	}
}

var actionNames = map[gitops.Action]string{
	gitops.ActionCreated:    "created",
	gitops.ActionConfigured: "configured",
	gitops.ActionUnchanged:  "unchanged",
	gitops.ActionPruned:     "pruned",
	gitops.ActionSkipped:    "skipped",
	gitops.ActionFailed:     "failed",
	gitops.ActionPruning:    "pruning",
}

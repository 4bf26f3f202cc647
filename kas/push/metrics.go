package push

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	streams prometheus.Gauge
	feeds   prometheus.Gauge
	sets    *prometheus.CounterVec
	objects prometheus.Counter
	bytes   prometheus.Counter
	latency prometheus.Histogram
	sending prometheus.Histogram
	builds  *prometheus.CounterVec
	seconds prometheus.Histogram
	parsed  prometheus.Counter
	renders prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := promauto.With(registerer)
	return &metrics{
		streams: m.NewGauge(prometheus.GaugeOpts{Name: "kas_push_streams", Help: "Open streams of agents: one for each manifest project."}),
		feeds:   m.NewGauge(prometheus.GaugeOpts{Name: "kas_push_feeds", Help: "Object sets kept for agents: one for each repository, ref, paths and default namespace."}),
		sets:    m.NewCounterVec(prometheus.CounterOpts{Name: "kas_push_sets_sent_total", Help: "Whole object sets sent, by mode: full or delta."}, []string{"mode"}),
		objects: m.NewCounter(prometheus.CounterOpts{Name: "kas_push_objects_sent_total", Help: "Objects sent."}),
		bytes:   m.NewCounter(prometheus.CounterOpts{Name: "kas_push_object_bytes_sent_total", Help: "Bytes of the JSON of the objects sent."}),
		latency: m.NewHistogram(prometheus.HistogramOpts{
			Name: "kas_push_latency_seconds", Help: "From the moment that the ref was seen at a commit until its whole set was sent to an agent that was connected then.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		sending: m.NewHistogram(prometheus.HistogramOpts{
			Name: "kas_push_send_seconds", Help: "How long it took to send an object set to an agent.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
		}),
		builds: m.NewCounterVec(prometheus.CounterOpts{Name: "kas_push_set_builds_total", Help: "Object sets built, by result: ok, mistakes (in the repository) or error (reading from Gitaly)."}, []string{"result"}),
		seconds: m.NewHistogram(prometheus.HistogramOpts{
			Name: "kas_push_set_build_seconds", Help: "How long it took to build an object set.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		parsed: m.NewCounter(prometheus.CounterOpts{Name: "kas_push_files_parsed_total", Help: "Files parsed: those whose content was not known from the commit before."}),
		renders: m.NewHistogram(prometheus.HistogramOpts{
			Name: "kas_push_render_seconds", Help: "How long it took to render a kustomization or a chart: only those of which a file changed.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
	}
}

package replicas

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxMessage bounds what Tell takes.
const maxMessage = 1 << 20

// bus is messages to the other replicas and from them.
type bus struct {
	in, out       *queue
	heard, lostIn prometheus.Counter
	told, lostOut prometheus.Counter
	changed       chan struct{}

	mu        sync.Mutex
	listeners map[string][]*listener // by topic
}

type listener struct {
	topic   string
	heard   func([]byte)
	stopped atomic.Bool
	fresh   bool // it is owed a gap once its topic is subscribed; guarded by bus.mu
}

func newBus(m *metrics) *bus {
	return &bus{
		in: newQueue(), out: newQueue(),
		heard: m.messages.WithLabelValues("in", "ok"), lostIn: m.messages.WithLabelValues("in", "lost"),
		told: m.messages.WithLabelValues("out", "ok"), lostOut: m.messages.WithLabelValues("out", "lost"),
		changed:   make(chan struct{}, 1),
		listeners: make(map[string][]*listener),
	}
}

// Tell sends a message of 1 MiB at most to all other replicas that Hear the topic. It never
// waits. The message is lost while Redis is away, where too much is being told at once, and
// for replicas that are cut off. It must not be changed afterwards.
func (r *Replicas) Tell(topic string, message []byte) {
	s, _ := r.current()
	switch {
	case r.alone():
	case s == nil || len(message) > maxMessage || !r.bus.out.put(event{topic: topic, message: message}):
		r.bus.lostOut.Inc()
	}
}

// Hear has heard called with each message that another replica tells of the topic, and with
// nil from when on messages are heard: at first, and each time that some may have been missed.
// All heard are called one after another, so they must not wait. After stop at most one call
// that has begun goes on.
func (r *Replicas) Hear(topic string, heard func(message []byte)) (stop func()) {
	b := r.bus
	l := &listener{topic: topic, heard: heard, fresh: true}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners[topic] = append(b.listeners[topic], l)
	nudge(b.changed)
	return func() { b.forget(l) }
}

func (b *bus) forget(l *listener) {
	l.stopped.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(b.listeners[l.topic]), func(other *listener) bool { return other == l })
	if b.listeners[l.topic] = rest; len(rest) == 0 {
		delete(b.listeners, l.topic)
	}
	nudge(b.changed)
}

// missed owes everybody a gap.
func (b *bus) missed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, all := range b.listeners {
		for _, l := range all {
			l.fresh = true
		}
	}
	nudge(b.changed)
}

// away loses what is to be told.
func (b *bus) away() {
	events, _ := b.out.take()
	b.lostOut.Add(float64(len(events)))
}

// dispatch calls listeners until ctx ends.
func (b *bus) dispatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.in.filled:
		}
		events, lost := b.in.take()
		for _, e := range events {
			b.deliver(e)
		}
		if lost {
			for _, l := range b.all() {
				l.call(nil)
			}
		}
	}
}

func (b *bus) deliver(e event) {
	if e.only != nil {
		e.only.call(nil)
		return
	}
	b.heard.Inc()
	b.mu.Lock()
	listeners := b.listeners[e.topic] // not changed, only appended to and replaced
	b.mu.Unlock()
	for _, l := range listeners {
		l.call(e.message)
	}
}

func (l *listener) call(message []byte) {
	if !l.stopped.Load() {
		l.heard(message)
	}
}

func (b *bus) all() []*listener {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []*listener
	for _, l := range b.listeners {
		all = append(all, l...)
	}
	return all
}

// topics returns all that are listened to, and the listeners that are owed a gap.
func (b *bus) topics() (map[string]bool, []*listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	topics, fresh := make(map[string]bool), []*listener{}
	for topic, listeners := range b.listeners {
		topics[topic] = true
		for _, l := range listeners {
			if l.fresh {
				l.fresh = false
				fresh = append(fresh, l)
			}
		}
	}
	return topics, fresh
}

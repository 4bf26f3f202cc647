package status

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/testkit"
)

var errAway = errors.New("it is away")

// room is what replicas share.
type room struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	rails *fakeRails

	mu      sync.Mutex
	away    bool
	deaf    bool // messages get lost
	keys    map[string]map[string][]byte
	members map[string]*member
}

// member is one replica's end of it.
type member struct {
	*room
	url   string
	store *Store
	agent bool // it has agent seven
	ended bool
	stop  func()
}

func newRoom(t *testing.T) *room {
	t.Helper()
	return &room{
		t: t, clock: clocktesting.NewFakeClock(epoch), rails: &fakeRails{},
		keys: make(map[string]map[string][]byte), members: make(map[string]*member),
	}
}

// startedClock knows how many tickers somebody has started.
type startedClock struct {
	*clocktesting.FakeClock
	tickers atomic.Int32
}

func (c *startedClock) NewTicker(d time.Duration) clock.Ticker {
	defer c.tickers.Add(1)
	return c.FakeClock.NewTicker(d)
}

// join starts a replica. It returns when time passes for it.
func (r *room) join(url string) *member {
	r.t.Helper()
	m, counted := &member{room: r, url: url}, &startedClock{FakeClock: r.clock}
	var err error
	m.store, err = New(Config{Clock: counted, Replicas: m, Self: url}, r.rails, testkit.Logger(r.t), prometheus.NewRegistry())
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.store.Run(ctx) }()
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			r.set(func() { m.ended = true })
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				r.t.Errorf("Run ended with %v", err)
			}
		})
	}
	r.t.Cleanup(m.stop)
	testkit.Eventually(r.t, func() error {
		if n := counted.tickers.Load(); n < 3 {
			return fmt.Errorf("%s has started %d tickers", url, n)
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members[url] = m
	return m
}

func (m *member) Put(_ context.Context, key string, fields map[string][]byte, _ time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errAway
	}
	if m.keys[key] == nil {
		m.keys[key] = make(map[string][]byte)
	}
	maps.Copy(m.keys[key], fields)
	return nil
}

func (m *member) Get(_ context.Context, key string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, errAway
	}
	return maps.Clone(m.keys[key]), nil
}

func (m *member) Remove(_ context.Context, key string, fields ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return errAway
	}
	for _, field := range fields {
		delete(m.keys[key], field)
	}
	return nil
}

func (m *member) Where(context.Context, int64) ([]string, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return nil, nil, errAway
	}
	var urls []string
	for url, other := range m.members {
		if other != m && other.agent {
			urls = append(urls, url)
		}
	}
	return urls, nil, nil
}

func (m *member) Answers(_ context.Context, url string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.members[url] != nil
}

func (m *member) Tell(topic string, message []byte) {
	m.mu.Lock()
	var others []*member
	for _, other := range m.members {
		if other != m && !m.away && !m.deaf && topic == Topic {
			others = append(others, other)
		}
	}
	m.mu.Unlock()
	for _, other := range others {
		other.store.Heard(message)
	}
}

// arrive, and then follow, is what an agent does that comes to a replica.
func (m *member) arrive() {
	m.has(true)
	m.store.Arrived(seven)
	m.store.Configuration(seven, &syncstatus.ConfigurationStatus{CommitId: "cfg"}, []string{staging})
}

func (m *member) follow(commit string, objects ...string) {
	m.store.Connected(seven, staging)
	m.store.Source(seven, staging, sourceOf(commit))
	m.store.Report(seven, staging, reportOf(commit, healthy(objects...)...))
}

func (m *member) unfollow() { m.store.Disconnected(seven, staging) }

func (m *member) leave() {
	m.store.Left(seven)
	m.has(false)
}

func (m *member) has(agent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.agent = agent
}

// kill ends a replica without a word.
func (m *member) kill() {
	m.mu.Lock()
	m.agent = false
	delete(m.members, m.url)
	m.mu.Unlock()
	m.stop()
}

func (r *room) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// state waits until the replica says that of the project.
func (m *member) state(want syncstatus.State, objects ...string) *syncstatus.ProjectStatus {
	m.t.Helper()
	var found *syncstatus.ProjectStatus
	testkit.Eventually(m.t, func() error {
		m.clock.Step(50 * time.Millisecond)
		var ok bool
		found, ok = m.store.Get(m.t.Context(), 7, staging)
		if !ok || found.GetState() != want || !slices.Equal(names(found), objects) {
			return fmt.Errorf("%s says %v", m.url, found)
		}
		return nil
	})
	return found
}

// pass lets time pass, in steps that give everybody time to do what is due.
func (r *room) pass(d time.Duration) {
	r.t.Helper()
	for end := r.clock.Now().Add(d); r.clock.Now().Before(end); {
		r.clock.Step(100 * time.Millisecond)
		r.settle()
	}
}

// settle waits until nobody is about to tell anything.
func (r *room) settle() {
	r.t.Helper()
	r.mu.Lock()
	var members []*member
	for _, m := range r.members {
		if !m.ended {
			members = append(members, m)
		}
	}
	r.mu.Unlock()
	testkit.Eventually(r.t, func() error {
		r.clock.Step(5 * time.Millisecond) // whoever has set a timer meanwhile waits for it
		for _, m := range members {
			if m.overdue() {
				return fmt.Errorf("%s has to judge", m.url)
			}
			for _, f := range []*forwarder{m.store.forward, m.store.share} {
				f.mu.Lock()
				busy := f.inFlight > 0 || !f.away && len(f.queue) > 0 && !f.queue[0].next.After(r.clock.Now())
				f.mu.Unlock()
				if busy {
					return fmt.Errorf("%s is busy", m.url)
				}
			}
		}
		return nil
	})
}

// overdue tells whether there is something to judge though the time to do so has come.
func (m *member) overdue() bool {
	for _, c := range m.store.silences() {
		if m.clock.Since(c.since) > m.store.cfg.Grace+m.store.cfg.Hold/judgements {
			return true
		}
	}
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	for _, due := range m.store.orphans {
		if m.clock.Since(due) > m.store.cfg.Grace/judgements {
			return true
		}
	}
	return false
}

// told is what RoR was told of the project, in order, repetitions left out.
func (r *room) told() []string {
	r.rails.mu.Lock()
	defer r.rails.mu.Unlock()
	var all []string
	for _, post := range r.rails.posts {
		if text, ok := strings.CutPrefix(post, "7 "+staging+" "); ok {
			all = append(all, text)
		}
	}
	return slices.Compact(all)
}

package cluster

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// recentFor is how long a result is shown at most. The cache is behind by
// milliseconds.
const recentFor = 10 * time.Second

// recent holds the results of requests that the cache has not shown yet.
type recent struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	results map[inventory.ID]result
	// flying requests by object, for what the cache shows before the answer comes.
	flying map[inventory.ID]*flight
}

// flight is the requests for one object whose answers are awaited.
type flight struct {
	requests int
	// seen is the newest version that the cache has shown meanwhile.
	seen string
}

type result struct {
	live gitops.Live
	at   time.Time
}

func newRecent(c clock.PassiveClock) *recent {
	return &recent{clock: c, results: map[inventory.ID]result{}, flying: map[inventory.ID]*flight{}}
}

// begin notes a request for an object. end is to be called once it was answered.
func (r *recent) begin(id inventory.ID) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.flying[id]
	if f == nil {
		f = &flight{}
		r.flying[id] = f
	}
	f.requests++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if f.requests--; f.requests == 0 {
			delete(r.flying, id)
		}
	}
}

// put remembers a result, unless the cache has shown it already, and perhaps more: the
// object may be gone by now.
func (r *recent) put(id inventory.ID, live gitops.Live) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flying[id]; f != nil && f.seen != "" && !older(f.seen, live.ResourceVersion) {
		return
	}
	r.results[id] = result{live: live, at: r.clock.Now()}
}

// seen says that the cache has shown this version of an object.
func (r *recent) seen(id inventory.ID, resourceVersion string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flying[id]; f != nil && (f.seen == "" || older(f.seen, resourceVersion)) {
		f.seen = resourceVersion
	}
	if got, ok := r.results[id]; ok && !older(resourceVersion, got.live.ResourceVersion) {
		delete(r.results, id)
	}
}

// newer returns the newer of what is cached and what was remembered.
func (r *recent) newer(id inventory.ID, cached gitops.Live, found bool) (gitops.Live, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.results) == 0 {
		return cached, found
	}
	got, ok := r.results[id]
	switch {
	case !ok:
		return cached, found
	case r.clock.Since(got.at) > recentFor,
		found && !older(cached.ResourceVersion, got.live.ResourceVersion):
		delete(r.results, id)
		return cached, found
	default:
		return got.live, true
	}
}

// sweep drops what nobody has asked for again.
func (r *recent) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, got := range r.results {
		if r.clock.Since(got.at) > recentFor {
			delete(r.results, id)
		}
	}
}

// older compares resource versions. One that is not a number is taken for new, so
// that nothing is held on to that cannot be judged.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}

package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/gitops"
)

const (
	// defaultSyncTimeout is how long one Ensure waits for a resource to be listed.
	defaultSyncTimeout = time.Minute
	// idleAfter is how long a resource is followed that nobody has asked for.
	idleAfter = time.Hour
	// reapEvery is how often idle resources are looked for.
	reapEvery = 10 * time.Minute
)

// ErrNotSynced is wrapped when a resource could not be listed in time.
var ErrNotSynced = errors.New("objects were not listed in time")

// Config is what a Cache needs.
type Config struct {
	// RESTConfig of the API server.
	RESTConfig *rest.Config
	// FieldManager whose fields count as ours.
	FieldManager string
	Log          *zap.Logger
	// Clock; nil: the real one.
	Clock clock.Clock
	// SyncTimeout is how long Ensure waits for one resource; zero: a minute.
	SyncTimeout time.Duration
}

// Cache holds the objects of the resources that it was asked to follow.
type Cache struct {
	cfg      Config
	dynamic  dynamic.Interface
	metadata metadata.Interface
	// starts hands followed resources to Run.
	starts chan *resource

	mu        sync.Mutex
	resources map[schema.GroupResource]*resource
	// previous objects of resources whose informer failed and was dropped.
	previous map[schema.GroupResource]cache.Store
	// holds counts who waits for changes of a resource.
	holds       map[schema.GroupResource]int
	subscribers map[int]Handler
	next        int
}

// Handler is told that an object was created, changed or deleted. The resource
// version is that of the change, for a deletion as well; empty: not known. Without a
// name, it is told that the resource was followed and is not served any more, at least
// not in that version; it is followed again when Ensure is called.
type Handler = func(resource schema.GroupResource, namespace, name, resourceVersion string)

// New returns a cache that follows nothing yet. It asks the API server nothing.
func New(cfg Config) (*Cache, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.SyncTimeout <= 0 {
		cfg.SyncTimeout = defaultSyncTimeout
	}
	// The API server's priority and fairness rules are the limit, not a guess here.
	unlimited := rest.CopyConfig(cfg.RESTConfig)
	unlimited.QPS = -1
	dyn, err := dynamic.NewForConfig(unlimited)
	if err != nil {
		return nil, fmt.Errorf("cache: make a client: %w", err)
	}
	md, err := metadata.NewForConfig(unlimited)
	if err != nil {
		return nil, fmt.Errorf("cache: make a metadata client: %w", err)
	}
	return &Cache{
		cfg: cfg, dynamic: dyn, metadata: md,
		starts:      make(chan *resource),
		resources:   map[schema.GroupResource]*resource{},
		previous:    map[schema.GroupResource]cache.Store{},
		holds:       map[schema.GroupResource]int{},
		subscribers: map[int]Handler{},
	}, nil
}

// Run follows resources until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	var informers sync.WaitGroup
	defer informers.Wait()
	reap := c.cfg.Clock.NewTimer(reapEvery)
	defer reap.Stop()
	for {
		select {
		case r := <-c.starts:
			informers.Go(func() { r.run(ctx) })
		case <-reap.C():
			c.reap(c.cfg.Clock.Now())
			reap.Reset(reapEvery)
		case <-ctx.Done():
			return nil
		}
	}
}

// Ensure has the resources followed, and waits until their objects are known. It
// returns one error for each that fails: an API error, ErrNotSynced, or what kept
// the API server from being reached. The error for ctx comes for each that was
// still waited for. Run must be running.
func (c *Cache) Ensure(ctx context.Context, mappings []*meta.RESTMapping) map[schema.GroupResource]error {
	failed := map[schema.GroupResource]error{}
	waiting := make([]*resource, 0, len(mappings))
	for _, m := range mappings {
		r := c.follow(m)
		if err := c.start(ctx, r); err != nil {
			failed[m.Resource.GroupResource()] = err
			continue
		}
		waiting = append(waiting, r)
	}
	timer := c.cfg.Clock.NewTimer(c.cfg.SyncTimeout)
	defer timer.Stop()
	deadline := timer.C()
	for _, r := range waiting {
		err := r.wait(ctx, deadline)
		if err == nil {
			continue
		}
		failed[r.mapping.Resource.GroupResource()] = err
		if errors.Is(err, ErrNotSynced) {
			past := make(chan time.Time)
			close(past)
			deadline = past
		}
		if r.useless() {
			// The next Ensure tries at once instead of waiting for the informer's
			// own backoff.
			c.drop(r, true)
		}
	}
	return failed
}

// follow returns the resource of a mapping.
func (c *Cache) follow(m *meta.RESTMapping) *resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	gr := m.Resource.GroupResource()
	r, ok := c.resources[gr]
	if !ok {
		r = c.newResource(m)
		r.previous = c.previous[gr]
		delete(c.previous, gr)
		c.resources[gr] = r
	}
	r.used = c.cfg.Clock.Now()
	return r
}

// start hands a new resource to Run.
func (c *Cache) start(ctx context.Context, r *resource) error {
	c.mu.Lock()
	started := r.started
	r.started = true
	c.mu.Unlock()
	if started {
		return nil
	}
	select {
	case c.starts <- r:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		r.started = false
		c.mu.Unlock()
		return fmt.Errorf("follow %s: %w", r.mapping.Resource.GroupResource(), ctx.Err())
	}
}

// drop stops following a resource. Where it is to be followed again soon, keep what
// is known of its objects.
func (c *Cache) drop(r *resource, keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gr := r.mapping.Resource.GroupResource()
	if c.resources[gr] == r {
		delete(c.resources, gr)
		if keep {
			c.previous[gr] = r.known()
		}
	}
	r.stop()
}

// lost stops following a resource that was known and is not served any more: its
// informer would ask for it for ever.
func (c *Cache) lost(r *resource) {
	c.mu.Lock()
	first := !r.lost
	r.lost = true
	c.mu.Unlock()
	if first {
		c.drop(r, true)
		c.notify(r.mapping.Resource.GroupResource(), "", "", "")
	}
}

// Hold keeps resources followed, once they are, for somebody who waits for their
// changes and may ask for nothing for a long time, until release is called.
func (c *Cache) Hold(resources []schema.GroupResource) (release func()) {
	held := slices.Clone(resources)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, gr := range held {
		c.holds[gr]++
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, gr := range held {
			if c.holds[gr]--; c.holds[gr] == 0 {
				delete(c.holds, gr)
			}
		}
	})
}

// reap drops what nobody has asked for in a long time and nobody holds.
func (c *Cache) reap(now time.Time) {
	c.mu.Lock()
	for gr := range c.previous {
		if c.holds[gr] == 0 {
			delete(c.previous, gr)
		}
	}
	var idle []*resource
	for gr, r := range c.resources {
		if c.holds[gr] == 0 && now.Sub(r.used) > idleAfter {
			idle = append(idle, r)
		}
	}
	c.mu.Unlock()
	for _, r := range idle {
		c.drop(r, false)
	}
}

// Get returns an object as last seen.
func (c *Cache) Get(gr schema.GroupResource, namespace, name string) (gitops.Live, bool) {
	c.mu.Lock()
	r, ok := c.resources[gr]
	previous := c.previous[gr]
	if ok {
		r.used = c.cfg.Clock.Now()
	}
	c.mu.Unlock()
	switch {
	case ok:
		return lookUp(r.known(), namespace, name)
	case previous != nil:
		return lookUp(previous, namespace, name)
	default:
		return gitops.Live{}, false
	}
}

// Subscribe has h called for every change of every resource that is followed, until
// stop is called.
func (c *Cache) Subscribe(h Handler) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.next
	c.next++
	c.subscribers[n] = h
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subscribers, n)
	}
}

// notify tells all subscribers.
func (c *Cache) notify(gr schema.GroupResource, namespace, name, resourceVersion string) {
	c.mu.Lock()
	handlers := make([]Handler, 0, len(c.subscribers))
	for _, h := range c.subscribers {
		handlers = append(handlers, h)
	}
	c.mu.Unlock()
	for _, h := range handlers {
		h(gr, namespace, name, resourceVersion)
	}
}

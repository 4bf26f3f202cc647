package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/gitops"
)

const (
	// defaultSyncTimeout is how long one Ensure waits for a resource to be listed.
	defaultSyncTimeout = time.Minute
	// idleAfter is how long a resource is followed that the engine has not asked for.
	idleAfter = time.Hour
	// defaultIdleTimeout is how long one is that questions were asked about.
	defaultIdleTimeout = 10 * time.Minute
	// previousAfter is how long the objects are known of a resource that is not followed
	// any more and that nobody holds.
	previousAfter = 10 * time.Minute
	// reapEvery is how often idle resources are looked for.
	reapEvery = time.Minute
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
	// SyncTimeout is how long Ensure and View wait for one resource; zero: a minute.
	SyncTimeout time.Duration
	// Settings until Configure is called.
	Settings
}

// Settings of questions.
type Settings struct {
	// SecretValues has Views show the values of Secrets, and the cache keep them while
	// somebody asks for whole Secrets.
	SecretValues bool
	// IdleTimeout is how long a resource is followed after the last View of it was
	// released; zero: ten minutes.
	IdleTimeout time.Duration
}

// Cache holds the objects of the resources that it was asked to follow.
type Cache struct {
	cfg      Config
	dynamic  dynamic.Interface
	metadata metadata.Interface
	// raw speaks to the API server in its own words.
	raw rest.Interface
	// starts hands followed resources to Run.
	starts chan *resource

	mu       sync.Mutex
	settings Settings
	// resources that the engine uses or may use, and asked those for questions alone.
	resources map[schema.GroupResource]*resource
	asked     map[question]*resource
	// previous objects of resources whose informer failed and was dropped.
	previous map[schema.GroupResource]previous
	// holds counts who waits for changes of a resource.
	holds       map[schema.GroupResource]int
	subscribers map[int]Handler
	next        int
}

// previous is a store that nothing fills, and since when.
type previous struct {
	store *store
	at    time.Time
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
	raw, err := newRawClient(unlimited)
	if err != nil {
		return nil, fmt.Errorf("cache: make a client for tables: %w", err)
	}
	return &Cache{
		cfg: cfg, dynamic: dyn, metadata: md, raw: raw,
		starts:      make(chan *resource),
		settings:    cfg.Settings,
		resources:   map[schema.GroupResource]*resource{},
		asked:       map[question]*resource{},
		previous:    map[schema.GroupResource]previous{},
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
	defer c.mu.Unlock()
	for gr, p := range c.previous {
		if c.holds[gr] == 0 && p.store.audience.views == 0 && now.Sub(p.at) > previousAfter {
			delete(c.previous, gr)
		}
	}
	for gr, r := range c.resources {
		unasked := c.isUnasked(r.store, now)
		switch {
		case unasked && c.holds[gr] == 0 && now.Sub(r.used) > idleAfter:
			c.dropLocked(r, false)
		case unasked:
			r.store.forget()
		default:
			r.store.trim()
		}
	}
	for _, r := range c.asked {
		if c.isUnasked(r.store, now) {
			c.dropLocked(r, false)
			r.store.end()
		} else {
			r.store.trim()
		}
	}
}

// isUnasked says that there have been no questions about a store for a while.
func (c *Cache) isUnasked(s *store, now time.Time) bool {
	idle := c.settings.IdleTimeout
	if idle <= 0 {
		idle = defaultIdleTimeout
	}
	return s.audience.views == 0 && now.Sub(s.audience.at) > idle
}

// Get returns an object as last seen.
func (c *Cache) Get(gr schema.GroupResource, namespace, name string) (gitops.Live, bool) {
	c.mu.Lock()
	r, ok := c.resources[gr]
	s := c.previous[gr].store
	if ok {
		r.used = c.cfg.Clock.Now()
		s = r.store
	}
	c.mu.Unlock()
	if s == nil {
		return gitops.Live{}, false
	}
	return s.live(namespace, name)
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

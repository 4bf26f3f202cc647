package cache

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/objects"
)

// backoff of lists and watches that cannot be opened, as client-go's informers have it.
var backoff = wait.Backoff{Duration: 800 * time.Millisecond, Cap: 30 * time.Second, Steps: 38, Factor: 2, Jitter: 1}

// backoffReset is how long it must have gone well for the backoff to begin anew.
const backoffReset = 2 * time.Minute

// resource is one informer.
type resource struct {
	cache   *Cache
	mapping *meta.RESTMapping
	// asked is what questions it is for alone; nil: it is the engine's.
	asked *question
	// store that it fills.
	store    *store
	source   cache.ListerWatcher
	expected runtime.Object
	// table is the source of a table; nil: it is none.
	table *tableSource
	// quit ends run.
	quit     chan struct{}
	quitOnce sync.Once
	// listed is closed once the objects are known.
	listed     chan struct{}
	listedOnce sync.Once
	// used (by the engine), started and lost are guarded by the cache's lock.
	used    time.Time
	started bool
	lost    bool

	mu sync.Mutex
	// failing is why the newest list or watch could not be opened; nil: it could.
	failing error
	// changed is closed, and replaced, when failing changes.
	changed chan struct{}
}

// newResource returns an informer that fills a store.
func (c *Cache) newResource(m *meta.RESTMapping, asked *question, s *store) *resource {
	r := &resource{
		cache: c, mapping: m, asked: asked, store: s,
		quit: make(chan struct{}), listed: make(chan struct{}), changed: make(chan struct{}),
	}
	r.source, r.expected, r.table = c.source(m, asked, r.opened)
	s.adopt(r)
	return r
}

// run follows the resource until ctx ends or stop is called.
func (r *resource) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var following sync.WaitGroup
	following.Go(func() { r.follow(ctx) })
	select {
	case <-ctx.Done():
	case <-r.quit:
	}
	cancel()
	following.Wait()
}

// follow lists and watches, over and over, until ctx ends.
func (r *resource) follow(ctx context.Context) {
	gr := r.mapping.Resource.GroupResource()
	reflector := cache.NewReflectorWithOptions(r.source, r.expected, feed{r},
		cache.ReflectorOptions{Name: "agentk", TypeDescription: gr.String()})
	_ = backoff.DelayWithReset(clock.RealClock{}, backoffReset).Until(ctx, true, true,
		func(ctx context.Context) (done bool, err error) {
			if err := reflector.ListAndWatchWithContext(ctx); err != nil {
				r.cache.cfg.Log.Debug("list or watch ended; it is tried again", zap.Stringer("resource", gr), zap.Error(err))
			}
			return false, nil
		})
}

func (r *resource) stop() { r.quitOnce.Do(func() { close(r.quit) }) }

// opened notes how opening a list or a watch went.
func (r *resource) opened(err error) {
	r.mu.Lock()
	news := err != nil || r.failing != nil
	if news {
		r.failing = err
		close(r.changed)
		r.changed = make(chan struct{})
	}
	r.mu.Unlock()
	switch {
	case err == nil:
		r.store.hear(r, "")
	case !r.isListed():
	case apierrors.IsNotFound(err):
		r.cache.lost(r)
	case apierrors.IsForbidden(err):
		r.store.end()
	}
}

func (r *resource) isListed() bool {
	select {
	case <-r.listed:
		return true
	default:
		return false
	}
}

func (r *resource) state() (changed <-chan struct{}, failing error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed, r.failing
}

// wait returns nil once the objects are known, or why they are not.
func (r *resource) wait(ctx context.Context, deadline <-chan time.Time) error {
	gr := r.mapping.Resource.GroupResource()
	for {
		changed, failing := r.state()
		listed := r.isListed()
		if failing != nil && (!listed || !passing(failing)) {
			return fmt.Errorf("list and watch %s: %w", gr, failing)
		}
		if listed {
			return nil
		}
		select {
		case <-r.listed:
		case <-changed:
		case <-deadline:
			return fmt.Errorf("list %s: %w", gr, ErrNotSynced)
		case <-ctx.Done():
			return fmt.Errorf("list %s: %w", gr, ctx.Err())
		}
	}
}

// useless says that the informer had better be replaced: it would wait for ever
// longer before it tries again.
func (r *resource) useless() bool {
	_, failing := r.state()
	return failing != nil && (!r.isListed() || !passing(failing))
}

// notify tells the engine of a change.
func (r *resource) notify(key objects.Key, version string) {
	if r.asked == nil {
		r.cache.notify(r.mapping.Resource.GroupResource(), key.Namespace, key.Name, version)
	}
}

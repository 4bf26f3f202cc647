package cache

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/kas-agentk/kas/gitops"
)

// resource is one informer.
type resource struct {
	cache    *Cache
	mapping  *meta.RESTMapping
	informer cache.SharedIndexInformer
	// quit ends run.
	quit     chan struct{}
	quitOnce sync.Once
	// used, started and lost are guarded by the cache's lock.
	used    time.Time
	started bool
	lost    bool

	mu sync.Mutex
	// failing is why the newest list or watch could not be opened; nil: it could.
	failing error
	// changed is closed, and replaced, when failing changes.
	changed chan struct{}
	// previous holds the objects as the informer before this one knew them, until
	// this one knows better; nil: there was none, or it does.
	previous cache.Store
}

func (c *Cache) newResource(m *meta.RESTMapping) *resource {
	r := &resource{cache: c, mapping: m, quit: make(chan struct{}), changed: make(chan struct{})}
	lw, expected := c.source(m.Resource, r.opened)
	r.informer = cache.NewSharedIndexInformerWithOptions(lw, expected, cache.SharedIndexInformerOptions{})
	r.wire()
	return r
}

// wire sets the informer's callbacks; that only fails once it has been started.
func (r *resource) wire() {
	_ = r.informer.SetTransform(r.project)
	_ = r.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		r.cache.cfg.Log.Debug("list or watch ended; it is tried again",
			zap.Stringer("resource", r.mapping.Resource.GroupResource()), zap.Error(err))
	})
	_, _ = r.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    r.notify,
		UpdateFunc: func(_, now any) { r.notify(now) },
		DeleteFunc: func(last any) {
			if unknown, ok := last.(cache.DeletedFinalStateUnknown); ok {
				namespace, name, err := cache.SplitMetaNamespaceKey(unknown.Key)
				if err == nil {
					r.cache.notify(r.mapping.Resource.GroupResource(), namespace, name, "")
				}
				return
			}
			r.notify(last)
		},
	})
}

func (r *resource) notify(obj any) {
	if it, ok := obj.(*item); ok {
		r.cache.notify(r.mapping.Resource.GroupResource(), it.namespace, it.name, it.live.ResourceVersion)
	}
}

// run follows the resource until ctx ends or stop is called.
func (r *resource) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var informer sync.WaitGroup
	informer.Go(func() { r.informer.RunWithContext(ctx) })
	select {
	case <-ctx.Done():
	case <-r.quit:
	}
	cancel()
	informer.Wait()
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
	if apierrors.IsNotFound(err) && r.informer.HasSynced() {
		r.cache.lost(r)
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
	synced := r.informer.HasSyncedChecker()
	for {
		changed, failing := r.state()
		if failing != nil && (!cache.IsDone(synced) || !passing(failing)) {
			return fmt.Errorf("list and watch %s: %w", gr, failing)
		}
		if cache.IsDone(synced) {
			r.caughtUp()
			return nil
		}
		select {
		case <-synced.Done():
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
	return failing != nil && (!r.informer.HasSynced() || !passing(failing))
}

// lookUp finds an object in a store of items.
func lookUp(store cache.Store, namespace, name string) (gitops.Live, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	obj, ok, err := store.GetByKey(key)
	if err != nil || !ok {
		return gitops.Live{}, false
	}
	it, ok := obj.(*item)
	if !ok {
		return gitops.Live{}, false
	}
	return it.live, true
}

// known is where the objects are.
func (r *resource) known() cache.Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.previous != nil && !r.informer.HasSynced() {
		return r.previous
	}
	return r.informer.GetStore()
}

// caughtUp tells subscribers of what has gone since the informer before this one
// stopped; this one never saw it.
func (r *resource) caughtUp() {
	r.mu.Lock()
	previous := r.previous
	r.previous = nil
	r.mu.Unlock()
	if previous == nil {
		return
	}
	for _, key := range previous.ListKeys() {
		if _, ok, err := r.informer.GetStore().GetByKey(key); ok || err != nil {
			continue
		}
		if namespace, name, err := cache.SplitMetaNamespaceKey(key); err == nil {
			r.cache.notify(r.mapping.Resource.GroupResource(), namespace, name, "")
		}
	}
}

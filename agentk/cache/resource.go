package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/kas-agentk/kas/inventory"
)

// resource is one informer.
type resource struct {
	cache    *Cache
	mapping  *meta.RESTMapping
	informer cache.SharedIndexInformer
	// quit ends run.
	quit     chan struct{}
	quitOnce sync.Once
	// used and started are guarded by the cache's lock.
	used    time.Time
	started bool

	mu sync.Mutex
	// failing is why the newest list or watch could not be opened; nil: it could.
	failing error
	// changed is closed, and replaced, when failing changes.
	changed chan struct{}
}

func (c *Cache) newResource(m *meta.RESTMapping) *resource {
	r := &resource{cache: c, mapping: m, quit: make(chan struct{}), changed: make(chan struct{})}
	var expected runtime.Object = &unstructured.Unstructured{}
	client := any(c.dynamic)
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.dynamic.Resource(m.Resource).List(ctx, o)
	}
	open := func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return c.dynamic.Resource(m.Resource).Watch(ctx, o)
	}
	if metadataOnly(m.Resource.GroupResource()) {
		expected, client = &metav1.PartialObjectMetadata{}, c.metadata
		list = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return c.metadata.Resource(m.Resource).List(ctx, o)
		}
		open = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.metadata.Resource(m.Resource).Watch(ctx, o)
		}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l, err := list(ctx, o)
			if ctx.Err() == nil {
				r.opened(err)
			}
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := open(ctx, o)
			// Where an API does not know how to stream a list, a plain list follows.
			streaming := o.SendInitialEvents != nil && *o.SendInitialEvents
			if ctx.Err() == nil && (!streaming || !isAPIStatus(err)) {
				r.opened(err)
			}
			return w, err
		},
	}
	r.informer = cache.NewSharedIndexInformerWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, client), expected, cache.SharedIndexInformerOptions{})
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
		r.cache.notify(r.mapping.Resource.GroupResource(), it.GetNamespace(), it.GetName(), it.GetResourceVersion())
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
	defer r.mu.Unlock()
	if err == nil && r.failing == nil {
		return
	}
	r.failing = err
	close(r.changed)
	r.changed = make(chan struct{})
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

// useless says that the informer has failed in a way in which it had better be
// replaced: before it knew anything, or because the API server no longer lets us.
func (r *resource) useless() bool {
	_, failing := r.state()
	return failing != nil && (!r.informer.HasSynced() || isAPIStatus(failing) && !passing(failing))
}

// passing says that an error is part of a watch's normal life: what is known stays
// good enough while the informer opens the next one.
func passing(err error) bool {
	return isAPIStatus(err) && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) &&
		!apierrors.IsUnauthorized(err) && !apierrors.IsMethodNotSupported(err)
}

// isAPIStatus says that the API server has answered.
func isAPIStatus(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

func (r *resource) get(namespace, name string) (*unstructured.Unstructured, inventory.Hash, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	obj, ok, err := r.informer.GetStore().GetByKey(key)
	if err != nil || !ok {
		return nil, inventory.Hash{}, false
	}
	it, ok := obj.(*item)
	if !ok {
		return nil, inventory.Hash{}, false
	}
	return it.Unstructured, it.ownership, true
}

// metadataOnly says that nobody needs more than the metadata of these objects, which
// may be large and secret.
func metadataOnly(gr schema.GroupResource) bool {
	return gr.Group == "" && (gr.Resource == "configmaps" || gr.Resource == "secrets")
}

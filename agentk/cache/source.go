package cache

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// source is where an informer gets its objects from, and of which type they are.
// opened is told how opening each list and watch went.
func (c *Cache) source(gvr schema.GroupVersionResource, opened func(error)) (cache.ListerWatcher, runtime.Object) {
	if metadataOnly(gvr.GroupResource()) {
		client := c.metadata.Resource(gvr)
		list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) }
		return cache.ToListWatcherWithWatchListSemantics(listWatch(list, client.Watch, opened), c.metadata),
			&metav1.PartialObjectMetadata{}
	}
	client := c.dynamic.Resource(gvr)
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) }
	return cache.ToListWatcherWithWatchListSemantics(listWatch(list, client.Watch, opened), c.dynamic),
		&unstructured.Unstructured{}
}

// listWatch joins a list and a watch and reports how they go.
func listWatch(list cache.ListWithContextFunc, open cache.WatchFuncWithContext, opened func(error)) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.ResourceVersion == "0" {
				// The newest, not what some API server last heard: what is missing
				// from the list is taken not to exist.
				o.ResourceVersion = ""
			}
			l, err := list(ctx, o)
			if ctx.Err() == nil {
				opened(err)
			}
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := open(ctx, o)
			streaming := o.SendInitialEvents != nil && *o.SendInitialEvents
			if !streaming || err == nil {
				if ctx.Err() == nil {
					opened(err)
				}
				return w, err
			}
			// A plain list follows, of an API that does not know how to stream one,
			// too. The informer would first wait on some errors, deaf to the end of
			// its context, if it recognised them.
			return nil, opaqueError{err}
		},
	}
}

// opaqueError hides which error it is.
type opaqueError struct{ err error }

func (e opaqueError) Error() string { return e.err.Error() }

// metadataOnly says that nobody needs more than the metadata of these objects, which
// may be large and secret.
func metadataOnly(gr schema.GroupResource) bool {
	return gr.Group == "" && (gr.Resource == "configmaps" || gr.Resource == "secrets")
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

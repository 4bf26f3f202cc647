package cache

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/kas-agentk/kas/internal/objects"
)

// source is where an informer gets its objects from, of which type they are (nil: of
// several), and the table, for a question for one. opened is told how opening each list
// and watch went.
func (c *Cache) source(m *meta.RESTMapping, asked *question, opened func(error)) (cache.ListerWatcher, runtime.Object, *tableSource) {
	form := objects.Whole
	if metadataOnly(m.Resource.GroupResource()) {
		form = objects.Metadata
	}
	if asked != nil {
		form = asked.form
	}
	switch form {
	case objects.Table:
		table := newTableSource(c.raw, m)
		return cache.ToListWatcherWithWatchListSemantics(listWatch(table.list, table.watch, opened), c.dynamic), nil, table
	case objects.Metadata:
		client := c.metadata.Resource(m.Resource)
		list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) }
		return cache.ToListWatcherWithWatchListSemantics(listWatch(list, client.Watch, opened), c.metadata),
			&metav1.PartialObjectMetadata{}, nil
	default:
		client := c.dynamic.Resource(m.Resource)
		list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) }
		return cache.ToListWatcherWithWatchListSemantics(listWatch(list, client.Watch, opened), c.dynamic),
			&unstructured.Unstructured{}, nil
	}
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

// metadataOnly says that the engine needs no more than the metadata of these objects,
// which may be large and secret.
func metadataOnly(gr schema.GroupResource) bool {
	return gr.Group == "" && (gr.Resource == "configmaps" || gr.Resource == "secrets")
}

func isSecrets(gr schema.GroupResource) bool { return gr.Group == "" && gr.Resource == "secrets" }

func namespaced(m *meta.RESTMapping) bool {
	return m.Scope != nil && m.Scope.Name() == meta.RESTScopeNameNamespace
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

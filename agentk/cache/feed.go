package cache

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/kas-agentk/kas/internal/objects"
)

// feed is where a reflector puts what it hears. It is called by one goroutine.
type feed struct{ r *resource }

var (
	_ cache.TransformingStore      = feed{}
	_ cache.ResourceVersionUpdater = feed{}
)

// errUnkept is of what project has let through and no store can keep.
var errUnkept = errors.New("it cannot be kept")

// Transformer has the reflector gather a list as what is kept of it.
func (f feed) Transformer() cache.TransformFunc { return f.r.project }

// Add implements cache.ReflectorStore.
func (f feed) Add(obj any) error {
	e, err := f.entryOf(obj)
	if err != nil {
		return err
	}
	if f.r.store.put(f.r, e) {
		f.r.notify(e.key(), e.version())
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (f feed) Update(obj any) error { return f.Add(obj) }

// Delete implements cache.ReflectorStore. The object's resource version is that of its
// deletion.
func (f feed) Delete(obj any) error {
	o, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Errorf("drop an object of %s: %w", f.r.mapping.Resource.GroupResource(), err)
	}
	key := objects.Key{Namespace: o.GetNamespace(), Name: o.GetName()}
	if f.r.store.remove(f.r, key, o.GetResourceVersion()) {
		f.r.notify(key, o.GetResourceVersion())
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (f feed) Replace(list []any, version string) error {
	entries := make([]entry, 0, len(list))
	for _, obj := range list {
		e, err := f.entryOf(obj)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	clear(list)
	d := f.r.store.replace(f.r, entries, version, f.r.table.columnsNow())
	f.r.listedOnce.Do(func() { close(f.r.listed) })
	if f.r.asked != nil {
		return nil
	}
	for _, e := range d.put {
		f.r.notify(e.key(), e.version())
	}
	for _, key := range d.removed {
		f.r.notify(key, "")
	}
	return nil
}

// Resync implements cache.ReflectorStore; there is none.
func (f feed) Resync() error { return nil }

// UpdateResourceVersion hears of every event, bookmarks as well.
func (f feed) UpdateResourceVersion(version string) { f.r.store.hear(f.r, version) }

func (f feed) entryOf(obj any) (entry, error) {
	projected, err := f.r.project(obj)
	if err != nil {
		return nil, err
	}
	e, ok := projected.(entry)
	if !ok {
		return nil, fmt.Errorf("%s: %w: %T", f.r.mapping.Resource.GroupResource(), errUnkept, projected)
	}
	return e, nil
}

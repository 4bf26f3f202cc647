package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/rawjson"
)

// ErrForm is of a View in a form that there is not.
var ErrForm = errors.New("there is no such form of objects")

// maxAsked is how many informers there may be that the engine has no use for.
const maxAsked = 300

// errTooMany is of a View that would need another one. It carries its code for those
// who hand it on.
var errTooMany = status.Errorf(codes.ResourceExhausted,
	"%d resources are being looked at, and no more can be followed: end some watches", maxAsked)

// staleAfter is how long a View waits for objects that are known from before.
const staleAfter = time.Second

// question is what an informer is asked for that serves questions alone.
type question struct {
	resource schema.GroupVersionResource
	form     objects.Form
}

// Configure changes the settings of questions. Views of Secrets that were opened under
// other ones end.
func (c *Cache) Configure(s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.SecretValues != c.settings.SecretValues {
		for q, r := range c.asked {
			if q.form == objects.Whole && isSecrets(q.resource.GroupResource()) {
				r.lost = true // to those who are about to open a View of it
				c.dropLocked(r, false)
				r.store.end()
			}
		}
	}
	c.settings = s
}

// View returns the objects of a resource, once they are known; whoever asks first waits
// for them to be listed. Its error is as those of Ensure: an API error, ErrNotSynced,
// or what kept the API server from being reached; the error of ctx; or one with the gRPC
// code RESOURCE_EXHAUSTED where too much is looked at. Run must be running. The View
// must be released.
//
// Whole and Metadata may share an informer, and with it positions. A Table's objects
// have no JSON.
func (c *Cache) View(ctx context.Context, mapping *meta.RESTMapping, form objects.Form) (objects.View, error) {
	if form < objects.Whole || form > objects.Table {
		return nil, fmt.Errorf("%w: %d", ErrForm, form)
	}
	for {
		r, err := c.claim(mapping, form)
		if err != nil {
			return nil, err
		}
		if err := c.ready(ctx, r); err != nil {
			c.release(r.store)
			return nil, err
		}
		if v := c.open(r, form); v != nil {
			return v, nil
		}
		c.release(r.store) // lost in between: another informer knows more
	}
}

// claim returns the informer that answers, with a View counted.
func (c *Cache) claim(m *meta.RESTMapping, form objects.Form) (*resource, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := question{resource: m.Resource, form: form}
	engines := c.isEngines(m, form)
	r := c.asked[q]
	if engines {
		r = c.resources[m.Resource.GroupResource()]
	}
	if r == nil {
		if !c.makeRoom() {
			return nil, fmt.Errorf("follow %s: %w", m.Resource.GroupResource(), errTooMany)
		}
		if engines {
			r = c.followLocked(m)
		} else {
			r = c.askLocked(m, q)
		}
	}
	r.store.audience.views++
	r.store.audience.at = c.cfg.Clock.Now()
	return r, nil
}

// makeRoom says that another informer may be had for a question. It drops the one that
// was not asked about for longest, if need be.
func (c *Cache) makeRoom() bool {
	n := 0
	var oldest *resource
	consider := func(r *resource) {
		n++
		if r.store.audience.views == 0 && (oldest == nil || r.store.audience.at.Before(oldest.store.audience.at)) {
			oldest = r
		}
	}
	for _, r := range c.asked {
		consider(r)
	}
	for gr, r := range c.resources {
		if r.used.IsZero() && c.holds[gr] == 0 {
			consider(r)
		}
	}
	switch {
	case n < maxAsked:
	case oldest == nil:
		return false
	default:
		c.dropLocked(oldest, false)
	}
	return true
}

// isEngines says that what the engine knows of a resource, or would, answers.
func (c *Cache) isEngines(m *meta.RESTMapping, form objects.Form) bool {
	gr := m.Resource.GroupResource()
	r, followed := c.resources[gr]
	switch {
	case form == objects.Table, followed && r.mapping.Resource != m.Resource:
		return false
	case metadataOnly(gr):
		return form == objects.Metadata
	default:
		return followed || form == objects.Whole
	}
}

// askLocked returns a new informer for questions alone.
func (c *Cache) askLocked(m *meta.RESTMapping, q question) *resource {
	redacted := q.form == objects.Whole && isSecrets(m.Resource.GroupResource()) && !c.settings.SecretValues
	r := c.newResource(m, &q, newStore(c.cfg.Clock, m, q.form == objects.Whole, redacted))
	c.asked[q] = r
	return r
}

// ready starts an informer and waits until the objects are known. Those that were known
// before will do while the API server is away.
func (c *Cache) ready(ctx context.Context, r *resource) error {
	if err := c.start(ctx, r); err != nil {
		return err
	}
	if r.isListed() {
		if _, failing := r.state(); failing == nil {
			return nil // as nearly always: without a timer
		}
	}
	known := r.store.isFilled()
	limit := c.cfg.SyncTimeout
	if known {
		limit = staleAfter
	}
	if limit <= 0 {
		limit = defaultSyncTimeout
	}
	timer := c.cfg.Clock.NewTimer(limit)
	defer timer.Stop()
	err := r.wait(ctx, timer.C())
	switch {
	case err == nil, known && ctx.Err() == nil && !isAPIStatus(err):
		return nil
	case r.useless():
		// The next question tries at once.
		c.drop(r, true)
	}
	return err
}

// open returns a View of what claim has counted it for; nil: it is lost.
func (c *Cache) open(r *resource, form objects.Form) objects.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.lost {
		return nil
	}
	s := r.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &view{
		store: s, cut: form == objects.Metadata && s.whole, columns: s.columns, ended: s.ended,
		release: sync.OnceFunc(func() { c.release(s) }),
	}
}

// release counts a View less.
func (c *Cache) release(s *store) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.audience.views--
	s.audience.at = c.cfg.Clock.Now()
}

// view implements objects.View.
type view struct {
	store *store
	// cut: there is more of the objects than their metadata.
	cut     bool
	columns []objects.Column
	ended   <-chan struct{}
	release func()
}

var _ objects.View = (*view)(nil)

// Freshness implements objects.View.
func (v *view) Freshness() objects.Freshness { return v.store.freshness() }

// Columns implements objects.View.
func (v *view) Columns() []objects.Column { return v.columns }

// Get implements objects.View.
func (v *view) Get(namespace, name string) *objects.Object {
	return v.shape(v.store.get(objects.Key{Namespace: namespace, Name: name}))
}

// List implements objects.View.
func (v *view) List(namespace string) ([]*objects.Object, objects.Position) {
	list, position := v.store.list(namespace)
	if v.cut {
		for i, o := range list {
			list[i] = v.shape(o)
		}
	}
	return list, position
}

// Since implements objects.View.
func (v *view) Since(p objects.Position) ([]objects.Change, objects.Position, bool) {
	changes, after, known := v.store.since(p)
	if v.cut {
		for i, change := range changes {
			changes[i] = objects.Change{Before: v.shape(change.Before), After: v.shape(change.After)}
		}
	}
	return changes, after, known
}

// Changed implements objects.View.
func (v *view) Changed(p objects.Position) <-chan struct{} { return v.store.after(p) }

// Ended implements objects.View.
func (v *view) Ended() <-chan struct{} { return v.ended }

// Release implements objects.View.
func (v *view) Release() { v.release() }

// shape returns an object in the form of the View.
func (v *view) shape(o *objects.Object) *objects.Object {
	if !v.cut || o == nil {
		return o
	}
	cut := *o
	cut.JSON = rawjson.AppendMetadata(nil, o.JSON)
	return &cut
}

package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/internal/objects"
)

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
			if !isAPIStatus(err) {
				c.goOn(ctx, r)
			}
		}
	}
	return failed
}

// follow returns the resource of a mapping for the engine.
func (c *Cache) follow(m *meta.RESTMapping) *resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.resources[m.Resource.GroupResource()]; r != nil && r.used.IsZero() && r.mapping.Resource != m.Resource {
		// Questions were about another version.
		c.dropLocked(r, true)
	}
	r := c.followLocked(m)
	r.used = c.cfg.Clock.Now()
	return r
}

func (c *Cache) followLocked(m *meta.RESTMapping) *resource {
	gr := m.Resource.GroupResource()
	r, ok := c.resources[gr]
	if !ok {
		s := c.previous[gr].store
		if s == nil {
			s = newStore(c.cfg.Clock, m, !metadataOnly(gr), false)
		}
		r = c.newResource(m, nil, s)
		delete(c.previous, gr)
		c.resources[gr] = r
	}
	return r
}

// goOn follows at once, for those who hold Views, what was dropped and the engine may
// never ask for again.
func (c *Cache) goOn(ctx context.Context, dropped *resource) {
	c.mu.Lock()
	if dropped.store.audience.views == 0 || dropped.lost {
		c.mu.Unlock()
		return
	}
	r := c.followLocked(dropped.mapping)
	if r.used.IsZero() {
		r.used = dropped.used
	}
	c.mu.Unlock()
	_ = c.start(ctx, r) // which fails with ctx: the next Ensure or View starts it
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
	c.dropLocked(r, keep)
}

func (c *Cache) dropLocked(r *resource, keep bool) {
	gr := r.mapping.Resource.GroupResource()
	switch {
	case r.asked != nil:
		if c.asked[*r.asked] == r {
			delete(c.asked, *r.asked)
		}
	case c.resources[gr] == r:
		delete(c.resources, gr)
		if keep {
			c.previous[gr] = previous{store: r.store, at: c.cfg.Clock.Now()}
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
		r.store.end()
		r.notify(objects.Key{}, "")
	}
}

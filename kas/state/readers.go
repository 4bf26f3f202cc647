package state

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// run begins and ends readers until ctx ends, and returns nil when all have ended.
func (t *table) run(ctx context.Context, read func(context.Context, groupKey, *shared) error) error {
	var g errgroup.Group
	ticker := t.clock.NewTicker(t.linger / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, r := range t.close() {
				r.shared.end(errDraining)
			}
			return g.Wait()
		case <-t.wake:
			for _, r := range t.take() {
				readCtx, end := context.WithCancel(ctx)
				if !t.begin(r, end) {
					end()
					continue
				}
				g.Go(func() error {
					defer end()
					t.done(ctx, r, read(readCtx, r.group.key, r.shared))
					return nil
				})
			}
		case <-ticker.C():
			t.sweep()
		}
	}
}

// close lets nobody in any more and returns the readings that have not been begun.
func (t *table) close() []*reading {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	return t.takeLocked()
}

func (t *table) take() []*reading {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked()
}

func (t *table) takeLocked() []*reading {
	pending := t.pending
	t.pending = nil
	return pending
}

// begin notes how to end a reading; false: nobody wants it any more.
func (t *table) begin(r *reading, end context.CancelFunc) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.group.reading != r {
		return false
	}
	r.end = end
	t.metrics.shared.Inc()
	return true
}

// done notes the end of a reading. ctx is run's.
func (t *table) done(ctx context.Context, r *reading, err error) {
	if ctx.Err() != nil {
		err = errDraining
	}
	t.mu.Lock()
	if r.group.reading == r {
		r.group.reading = nil
	}
	if errors.Is(err, errCrowded) {
		r.group.crowded = t.clock.Now().Add(crowdedTime)
	}
	t.metrics.shared.Dec()
	t.mu.Unlock()
	r.shared.end(err)
}

// sweep ends what has had no watchers for a while.
func (t *table) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, g := range t.groups {
		if g.watchers > 0 || t.clock.Since(g.idle) < t.linger {
			continue
		}
		delete(t.groups, k)
		if g.reading != nil && g.reading.end != nil {
			g.reading.end()
		}
		g.reading = nil
	}
}

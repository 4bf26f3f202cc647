package gitops

import (
	"context"
	"fmt"
	"time"

	"github.com/kas-agentk/kas/inventory"
)

// recordEvery is how long changes of the inventory gather before it is written:
// deletions that have ended, for which the garbage collector takes a while where they
// are many, and heals.
const recordEvery = time.Second

// pending is what Watch has still to write to the inventory, besides what Run has changed
// in it and left to be written (see Project.RecordLate). All of it is about
// objects that are on the inventory since before they were first applied, so that a
// process that dies before it is written loses none of them: an object that was
// healed is then found to show another ownership than recorded, and applied once
// more; one that is gone is looked for once more.
type pending struct {
	// run: Run has left something.
	run     bool
	entries map[inventory.ID]inventory.Entry
	gone    []inventory.ID
	// contested entries are no reason to write: as long as the quarrel goes on, they
	// would not be true for long. They are written along with the others, once the
	// quarrel is over, and when Watch ends.
	contested map[inventory.ID]inventory.Entry
}

func newPending() pending {
	return pending{entries: map[inventory.ID]inventory.Entry{}, contested: map[inventory.ID]inventory.Entry{}}
}

// empty says that there is no reason to write.
func (p *pending) empty() bool { return !p.run && len(p.entries) == 0 && len(p.gone) == 0 }

// put takes an entry in.
func (p *pending) put(id inventory.ID, e inventory.Entry, contested bool) {
	if _, waits := p.entries[id]; contested && !waits {
		p.contested[id] = e
		return
	}
	p.entries[id] = e
	delete(p.contested, id)
}

// settle has what was contested written.
func (p *pending) settle(id inventory.ID) {
	if e, ok := p.contested[id]; ok {
		p.put(id, e, false)
	}
}

// written is a write that has ended.
type written struct {
	pending
	err error
}

// write begins to write what is pending, unless a write is under way: what comes
// meanwhile is for the next one. Only one goroutine at a time has the inventory.
func (w *watcher) write(ctx context.Context) {
	if w.writing || w.pending.empty() {
		return
	}
	batch := w.pending
	w.pending, w.writing = newPending(), true
	w.healer.workers.Go(func() error {
		w.writes <- written{pending: batch, err: w.save(ctx, batch)}
		return nil
	})
}

// wrote settles a write.
func (w *watcher) wrote(got written) error {
	w.writing = false
	if got.err != nil {
		w.lost = true
		return got.err
	}
	w.removing -= len(got.gone)
	for _, id := range got.gone {
		w.healer.memory.keepNote(id, inventory.Hash{}, "")
		w.observer.Removed(id)
	}
	return nil
}

func (w *watcher) save(ctx context.Context, batch pending) error {
	detached, cancel := detach(ctx)
	defer cancel()
	inv, err := w.cluster.Load(detached, w.project.Key)
	if err != nil {
		return fmt.Errorf("read the inventory: %w", err)
	}
	for _, entries := range []map[inventory.ID]inventory.Entry{batch.contested, batch.entries} {
		for id, entry := range entries {
			inv.Set(id, entry)
		}
	}
	for _, id := range batch.gone {
		inv.Delete(id)
	}
	if err := w.cluster.Save(detached, inv); err != nil {
		return fmt.Errorf("write the inventory: %w", err)
	}
	return nil
}

// end waits for the requests in flight and writes what they came to.
func (w *watcher) end(ctx context.Context) error {
	_ = w.healer.workers.Wait() // none returns an error
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if w.writing {
		keep(w.wrote(<-w.writes))
	}
	for range len(w.healer.results) {
		keep(w.settle(<-w.healer.results))
	}
	if first == nil && (!w.pending.empty() || len(w.pending.contested) > 0) {
		batch := w.pending
		w.pending = newPending()
		keep(w.wrote(written{pending: batch, err: w.save(ctx, batch)}))
	}
	return first
}

package gitops

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/inventory"
)

// forgetEvery is how long deletions that have ended gather before the inventory is
// written, unless they were the last: the garbage collector takes a while for many.
const forgetEvery = time.Second

// WatchConfig is what Watch needs beyond the run's own.
type WatchConfig struct {
	// Clock for the timeouts; nil: the project's.
	Clock clock.Clock
	// OnReadiness, unless nil, is called once when Watch has looked at everything
	// and then at every change. It must not block.
	OnReadiness func(Readiness)
}

// watched is an object that Watch looks after.
type watched struct {
	status ObjectStatus
	// seen: the cluster may be asked for the object.
	seen bool
	// leaving: the object is not part of the set.
	leaving bool
	// uid of a leaving object.
	uid types.UID
	// foreign: the policy forbade to touch the live object, which was owner's.
	foreign bool
	owner   string
	// ownership as the run left it; zero where the run did not apply the object.
	ownership inventory.Hash
}

// counts says that readiness waits for the object.
func (w *watched) counts() bool {
	return w.seen && (applied(w.status.Action) || w.status.Action == ActionPruning)
}

// Watch follows the objects of a run until ctx ends: it tells the Observer of every
// change of health, and of pruned objects that are gone, which it also takes off
// the inventory. It returns nil when ctx has ended, and an error when the inventory
// could not be read or saved; then it is Run's turn again.
func Watch(ctx context.Context, c Cluster, p Project, r Result, o Observer, cfg WatchConfig) error {
	if cfg.Clock == nil {
		cfg.Clock = clockOf(p.Clock)
	}
	w := &watcher{
		cluster: c, project: p, observer: o, tell: cfg.OnReadiness,
		objects: slices.Clone(r.watched), index: make(map[inventory.ID]int, len(r.watched)),
		unready: map[int]struct{}{}, drifted: map[int]struct{}{},
		dirty: map[int]struct{}{}, wake: make(chan struct{}, 1),
	}
	kinds := w.indexObjects()
	stop := c.Notify(kinds, w.changed)
	defer stop()
	for i := range w.objects {
		w.dirtyOne(i)
	}
	w.poke() // also where there is no object
	return w.loop(ctx, cfg.Clock)
}

// watcher is the state of one Watch. The cluster's goroutines call changed;
// all else is Watch's own.
type watcher struct {
	cluster  Cluster
	project  Project
	observer Observer
	tell     func(Readiness)

	objects []watched
	// index of an object; not changed any more once notifications come.
	index map[inventory.ID]int
	// unready and drifted objects, by index.
	unready, drifted map[int]struct{}
	// leaving is how many objects are being deleted, and gone those that are gone
	// and still on the inventory.
	leaving int
	gone    []inventory.ID
	// told is the readiness that was last told; nil: none.
	told *Readiness
	// appliesLate and prunesLate: the timeout has passed.
	appliesLate, prunesLate bool

	wake chan struct{}
	mu   sync.Mutex
	// dirty objects, by index, are to be looked at.
	dirty map[int]struct{}
}

// indexObjects fills the index and returns the kinds to be notified of.
func (w *watcher) indexObjects() []schema.GroupKind {
	seen := map[schema.GroupKind]struct{}{}
	var kinds []schema.GroupKind
	for i := range w.objects {
		if !w.objects[i].seen {
			continue
		}
		id := w.objects[i].status.ID
		w.index[id] = i
		if w.objects[i].status.Action == ActionPruning {
			w.leaving++
		}
		if _, ok := seen[id.GroupKind]; !ok {
			seen[id.GroupKind] = struct{}{}
			kinds = append(kinds, id.GroupKind)
		}
	}
	return kinds
}

// changed is called by the cluster.
func (w *watcher) changed(id inventory.ID) {
	if i, ok := w.index[id]; ok {
		w.dirtyOne(i)
		w.poke()
	}
}

func (w *watcher) dirtyOne(i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty[i] = struct{}{}
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take empties the dirty set, in the order of the set of objects.
func (w *watcher) take() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	dirty := make([]int, 0, len(w.dirty))
	for i := range w.dirty {
		dirty = append(dirty, i)
	}
	clear(w.dirty)
	slices.Sort(dirty)
	return dirty
}

func (w *watcher) loop(ctx context.Context, clk clock.Clock) error {
	reconcile, stopReconcile := timer(clk, w.project.ReconcileTimeout)
	defer stopReconcile()
	prune, stopPrune := timer(clk, w.project.PruneTimeout)
	defer stopPrune()
	var gather <-chan time.Time
	stopGather := func() bool { return false }
	defer func() { stopGather() }()
	for {
		forget := false
		select {
		case <-ctx.Done():
			return nil
		case <-reconcile:
			w.appliesLate = true
		case <-prune:
			w.prunesLate = true
		case <-w.wake:
			for _, i := range w.take() {
				if w.look(&w.objects[i], i) {
					w.gone = append(w.gone, w.objects[i].status.ID)
					w.leaving--
				}
			}
			if len(w.gone) > 0 && gather == nil {
				gather, stopGather = timer(clk, forgetEvery)
			}
		case <-gather:
			forget = true
		}
		if forget || len(w.gone) > 0 && w.leaving == 0 {
			stopGather()
			gather = nil
			if err := w.forget(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		w.sum()
	}
}

// timer that never fires where d is zero.
func timer(clk clock.Clock, d time.Duration) (<-chan time.Time, func() bool) {
	if d <= 0 {
		return nil, func() bool { return false }
	}
	t := clk.NewTimer(d)
	return t.C(), t.Stop
}

// look brings one object's status up to date. It returns true if a pruned object is
// gone.
func (w *watcher) look(obj *watched, i int) bool {
	if !obj.seen {
		return false
	}
	id := obj.status.ID
	live, exists := w.cluster.Live(id)
	if obj.leaving && obj.status.Action == ActionPruning && (!exists || live.UID != obj.uid) {
		obj.seen = false
		delete(w.unready, i)
		obj.status.Action, obj.status.Health, obj.status.Message = ActionPruned, HealthNotFound, ""
		w.observer.Object(obj.status)
		return true
	}
	before := obj.status
	health, message := HealthOf(id, live, exists)
	obj.status.Health = health
	if obj.status.Action != ActionFailed && obj.status.Action != ActionSkipped {
		obj.status.Message = message
	}
	if obj.status != before {
		w.observer.Object(obj.status)
	}
	note(w.unready, i, obj.counts() && (health != HealthCurrent || obj.leaving))
	note(w.drifted, i, obj.foreign && (!exists || live.Owner != obj.owner) ||
		applied(obj.status.Action) &&
			(!exists || live.Owner != w.project.Key || live.Ownership != obj.ownership))
	return false
}

func note(set map[int]struct{}, i int, in bool) {
	if in {
		set[i] = struct{}{}
	} else {
		delete(set, i)
	}
}

// forget takes pruned objects that are gone off the inventory.
func (w *watcher) forget(ctx context.Context) error {
	gone := w.gone
	w.gone = nil
	inv, err := w.cluster.Load(ctx, w.project.Key)
	if err != nil {
		return fmt.Errorf("read the inventory: %w", err)
	}
	for _, id := range gone {
		inv.Delete(id)
	}
	detached, cancel := detach(ctx)
	defer cancel()
	if err := w.cluster.Save(detached, inv); err != nil {
		return fmt.Errorf("write the inventory: %w", err)
	}
	for _, id := range gone {
		w.observer.Removed(id)
	}
	return nil
}

// sum tells the readiness if it has changed.
func (w *watcher) sum() {
	if w.tell == nil {
		return
	}
	now := Readiness{Ready: len(w.unready) == 0, Drifted: w.list(w.drifted, func(*watched) bool { return true })}
	if w.appliesLate || w.prunesLate {
		now.Late = w.list(w.unready, func(obj *watched) bool {
			return obj.leaving && w.prunesLate || !obj.leaving && w.appliesLate
		})
	}
	if w.told != nil && w.told.Ready == now.Ready &&
		slices.Equal(w.told.Late, now.Late) && slices.Equal(w.told.Drifted, now.Drifted) {
		return
	}
	w.told = &now
	w.tell(now)
}

func (w *watcher) list(set map[int]struct{}, keep func(*watched) bool) []inventory.ID {
	indexes := make([]int, 0, len(set))
	for i := range set {
		if keep(&w.objects[i]) {
			indexes = append(indexes, i)
		}
	}
	slices.Sort(indexes)
	ids := make([]inventory.ID, 0, len(indexes))
	for _, i := range indexes {
		ids = append(ids, w.objects[i].status.ID)
	}
	return ids
}

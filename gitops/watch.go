package gitops

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

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
	// object of the set; nil: it is not part of it. Shared.
	object *manifests.Object
	optOut optOut
	subs   []substitution
	// lacks is a kind that the object needs and that is not served; nil: none.
	lacks *schema.GroupVersionKind
	// note of the run, shown while there is nothing else to say.
	note string
	// digest that is on record, and ownership as the run or the last heal left it;
	// zero where the run did not apply the object.
	digest, ownership inventory.Hash
	// refused: the API server refused to have it healed. tries were put off until
	// notBefore.
	refused   bool
	tries     int
	notBefore time.Time
	// resourceVersion that health is of, and the health's own message.
	resourceVersion, why string
}

// counts says that readiness waits for the object.
func (w *watched) counts() bool {
	return w.seen && (applied(w.status.Action) || w.status.Action == ActionPruning)
}

// Watch follows the objects of a run until ctx ends. It tells the Observer of every
// change of health, and of pruned objects that are gone, which it also takes off the
// inventory. Objects that somebody else changed or deleted it applies again, each at
// once and for itself, and those that are changed again and again ever more slowly
// (see Contest); that they show another ownership then is recorded within a second, and
// what the run has left to be recorded at once.
// A Result is good for one Watch.
// It returns nil when ctx has ended, and an error when the inventory could not be
// read or saved or the API server cannot be reached; then it is Run's turn again.
func Watch(ctx context.Context, c Cluster, p Project, r Result, o Observer, cfg WatchConfig) error {
	w := newWatcher(c, p, r.watched, o, cfg)
	w.pending.run = r.unrecorded
	w.tellContested()
	stopAwaiting := w.awaitKinds(ctx, r.unserved)
	defer stopAwaiting()
	stopHoming := w.awaitHomes(ctx, r.homes)
	defer stopHoming()
	err := w.follow(ctx)
	if ctx.Err() != nil {
		return nil // the next Run finds out by itself
	}
	return err
}

func newWatcher(c Cluster, p Project, objects []watched, o Observer, cfg WatchConfig) *watcher {
	if cfg.Clock == nil {
		cfg.Clock = clockOf(p.Clock)
	}
	if p.Limit == nil {
		p.Limit = NewLimit(p.parallel())
	}
	if p.Heals == nil {
		p.Heals = nobody{}
	}
	return &watcher{
		cluster: c, project: p, observer: o, config: cfg, clock: cfg.Clock,
		objects: objects, index: make(map[inventory.ID]int, len(objects)), takers: map[inventory.ID][]int{},
		unready: map[int]struct{}{}, rerun: map[int]struct{}{},
		dirty: map[int]struct{}{}, wake: make(chan struct{}, 1),
		healer: newHealer(p.Healing, p.parallel()), pending: newPending(), writes: make(chan written, 1),
		served: make(chan struct{}, 1),
	}
}

// follow looks after the objects until ctx ends or something stops that. It returns
// when what it began is done and recorded.
func (w *watcher) follow(ctx context.Context) error {
	stop := w.cluster.Notify(w.indexObjects(), w.changed)
	defer stop()
	for i := range w.objects {
		w.dirtyOne(i)
	}
	err := w.loop(ctx)
	if endErr := w.end(ctx); err == nil {
		err = endErr
	}
	return err
}

// parallel is how many requests may be in flight.
func (p *Project) parallel() int {
	if p.Parallel <= 0 {
		return DefaultParallel
	}
	return p.Parallel
}

// watcher is the state of one Watch. The cluster's goroutines call changed; requests
// are in goroutines of their own, which use none of this; all else is Watch's own.
type watcher struct {
	cluster  Cluster
	project  Project
	observer Observer
	config   WatchConfig
	clock    clock.Clock

	objects []watched
	// index of an object; not changed any more once notifications come.
	index map[inventory.ID]int
	// takers of values from an object, by its ID; not changed any more, either.
	takers map[inventory.ID][]int
	// unready objects, and those that need another Run, by index.
	unready, rerun map[int]struct{}
	// leaving is how many objects are being deleted, and removing how many are gone
	// and still on the inventory.
	leaving, removing int
	healer            *healer
	// pending is to be written to the inventory, as soon as what is being written is.
	pending pending
	writing bool
	writes  chan written
	// lost: the inventory could not be saved, and has to be loaded anew.
	lost bool
	// told is the readiness that was last told; nil: none.
	told *Readiness
	// served hears when a kind is served, or a namespace there, that the run missed,
	// and when a kind is not served any more as it was; retry: one is.
	served chan struct{}
	retry  bool
	// appliesLate and prunesLate: the timeout has passed.
	appliesLate, prunesLate bool
	// again fires when something that waits is due; next is when.
	again clock.Timer
	next  time.Time

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
		for _, of := range w.objects[i].kinds() {
			if _, ok := seen[of]; !ok {
				seen[of] = struct{}{}
				kinds = append(kinds, of)
			}
		}
		for k := range w.objects[i].subs {
			source := w.objects[i].subs[k].source
			w.takers[source] = append(w.takers[source], i)
		}
	}
	return kinds
}

// changed is called by the cluster.
func (w *watcher) changed(id inventory.ID) {
	if id.Name == "" {
		w.askRetry()
		return
	}
	if i, ok := w.index[id]; ok {
		w.dirtyOne(i)
		w.poke()
	}
	for _, i := range w.takers[id] {
		w.dirtyOne(i)
		w.poke()
	}
}

func (w *watcher) dirtyOne(i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty[i] = struct{}{}
}

// askRetry says that another Run is worth while. It may be called by any goroutine.
func (w *watcher) askRetry() {
	select {
	case w.served <- struct{}{}:
	default: // it is known
	}
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

func (w *watcher) lookAtDirty() {
	for _, i := range w.take() {
		w.look(&w.objects[i], i)
	}
}

func (w *watcher) loop(ctx context.Context) error {
	reconcile, stopReconcile := timer(w.clock, w.project.ReconcileTimeout)
	defer stopReconcile()
	prune, stopPrune := timer(w.clock, w.project.PruneTimeout)
	defer stopPrune()
	var gather <-chan time.Time
	stopGather := func() bool { return false }
	defer func() { stopGather() }()
	w.again = w.clock.NewTimer(healingTick)
	defer w.again.Stop()
	w.write(ctx) // what the run has left
	// Nothing is told before everything has been looked at.
	w.lookAtDirty()
	w.dispatch(ctx)
	w.sum()
	w.poke() // to act on what was found
	for {
		var err error
		record := false
		select {
		case <-ctx.Done():
			return nil
		case <-reconcile:
			w.appliesLate = true
		case <-prune:
			w.prunesLate = true
		case <-w.served:
			w.retry = true
		case <-w.wake:
			w.lookAtDirty()
		case got := <-w.healer.results:
			err = w.settle(got)
		case <-w.again.C():
			w.next = time.Time{}
			w.wakeAt(w.due())
		case got := <-w.writes:
			err = w.wrote(got)
		case <-gather:
			record, gather = true, nil
		}
		if err != nil {
			return err
		}
		if record || len(w.pending.gone) > 0 && w.leaving == 0 {
			w.write(ctx)
		}
		if gather == nil && !w.pending.empty() {
			gather, stopGather = timer(w.clock, recordEvery)
		}
		w.dispatch(ctx)
		w.sum()
	}
}

// healingTick is the shortest wait for something to be due, so that many of them
// cost no more than few.
const healingTick = 20 * time.Millisecond

// wakeAt has the loop see what is due at t; zero: there is nothing to wait for.
func (w *watcher) wakeAt(t time.Time) {
	if t.IsZero() || !w.next.IsZero() && !t.Before(w.next) {
		return
	}
	w.next = t
	w.again.Stop()
	w.again.Reset(max(healingTick, t.Sub(w.clock.Now())))
}

// timer that never fires where d is zero.
func timer(clk clock.Clock, d time.Duration) (<-chan time.Time, func() bool) {
	if d <= 0 {
		return nil, func() bool { return false }
	}
	t := clk.NewTimer(d)
	return t.C(), t.Stop
}

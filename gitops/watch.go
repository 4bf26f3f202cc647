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
	// OnHealed, unless nil, is called for every object that was put right. It must
	// not block.
	OnHealed func(ObjectStatus)
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
// (see Contest); that they show another ownership then is recorded within a second.
// A Result is good for one Watch.
// It returns nil when ctx has ended, and an error when the inventory could not be
// read or saved or the API server cannot be reached; then it is Run's turn again.
func Watch(ctx context.Context, c Cluster, p Project, r Result, o Observer, cfg WatchConfig) error {
	if cfg.Clock == nil {
		cfg.Clock = clockOf(p.Clock)
	}
	w := &watcher{
		cluster: c, project: p, observer: o, tell: cfg.OnReadiness, onHealed: cfg.OnHealed, clock: cfg.Clock,
		objects: r.watched, index: make(map[inventory.ID]int, len(r.watched)), takers: map[inventory.ID][]int{},
		unready: map[int]struct{}{}, rerun: map[int]struct{}{},
		dirty: map[int]struct{}{}, wake: make(chan struct{}, 1),
		healer: newHealer(p.Healing, p.parallel()), pending: newPending(), writes: make(chan written, 1),
		served: make(chan struct{}, 1),
	}
	kinds := w.indexObjects()
	stop := c.Notify(kinds, w.changed)
	defer stop()
	for i := range w.objects {
		w.dirtyOne(i)
	}
	w.poke() // also where there is no object
	stopAwaiting := w.awaitKinds(ctx, r.unserved)
	defer stopAwaiting()
	err := w.loop(ctx)
	if endErr := w.end(ctx); err == nil {
		err = endErr
	}
	if ctx.Err() != nil {
		return nil // the next Run finds out by itself
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
	tell     func(Readiness)
	onHealed func(ObjectStatus)
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
	// told is the readiness that was last told; nil: none.
	told *Readiness
	// served hears when a kind is served that the run missed; retry: one is.
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
			for _, i := range w.take() {
				w.look(&w.objects[i], i)
			}
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

// look brings one object's status up to date, and sees to it that it is healed where
// that is due.
func (w *watcher) look(obj *watched, i int) {
	if !obj.seen {
		return
	}
	id := obj.status.ID
	live, exists := w.cluster.Live(id)
	if obj.leaving && obj.status.Action == ActionPruning && (!exists || live.UID != obj.uid) {
		obj.seen = false
		delete(w.unready, i)
		obj.status.Action, obj.status.Health, obj.status.Message = ActionPruned, HealthNotFound, ""
		w.observer.Object(obj.status)
		w.pending.gone = append(w.pending.gone, id)
		w.removing++
		w.leaving--
		return
	}
	before := obj.status
	w.examine(obj, live, exists)
	v := w.judge(obj, live, exists)
	if obj.status.Action != ActionFailed && obj.status.Action != ActionSkipped {
		obj.status.Message = w.remark(obj, v, exists)
	}
	if obj.status != before {
		w.observer.Object(obj.status)
	}
	note(w.unready, i, obj.counts() && (obj.status.Health != HealthCurrent || obj.leaving) && (exists || v != toIgnore))
	w.drifted(i, v)
	if id.GroupKind == namespaceKind && exists && !beingDeleted(live) {
		w.release(id.Name)
	}
}

// examine computes the health of an object that has changed since the last time.
func (w *watcher) examine(obj *watched, live Live, exists bool) {
	if exists && live.Object != nil && live.ResourceVersion != "" && live.ResourceVersion == obj.resourceVersion {
		return
	}
	obj.resourceVersion = ""
	if exists && live.Object != nil {
		obj.resourceVersion = live.ResourceVersion
	}
	obj.status.Health, obj.why = w.project.health(obj.status.ID, live, exists)
}

// remark is what there is to say about an object that is applied, or on its way out.
func (w *watcher) remark(obj *watched, v verdict, exists bool) string {
	message := obj.why
	add := func(text string) {
		if message != "" {
			text = message + "; " + text
		}
		message = text
	}
	if v == toIgnore {
		what := "changed"
		if !exists {
			message, what = "", "deleted"
		}
		add("somebody has " + what + " the object, which is left at that: its annotation " + DriftAnnotation + " says " + driftIgnore)
	}
	if obj.object != nil && obj.status.Contest != nil {
		if q := w.healer.memory.of(obj.status.ID, obj.object.Digest); q.contest != nil {
			add(q.message())
		}
	}
	if message == "" && applied(obj.status.Action) {
		return obj.note
	}
	return message
}

func note(set map[int]struct{}, i int, in bool) {
	if in {
		set[i] = struct{}{}
	} else {
		delete(set, i)
	}
}

// sum tells the readiness if it has changed.
func (w *watcher) sum() {
	if w.tell == nil {
		return
	}
	now := Readiness{Ready: len(w.unready) == 0 && w.removing == 0, Retry: w.retry, Drifted: w.list(w.rerun, func(*watched) bool { return true })}
	if w.appliesLate || w.prunesLate {
		now.Late = w.list(w.unready, func(obj *watched) bool {
			return obj.leaving && w.prunesLate || !obj.leaving && w.appliesLate
		})
	}
	if w.told != nil && w.told.Ready == now.Ready && w.told.Retry == now.Retry &&
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

package gitops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/inventory"
)

// verdict is what is to be done about an object of which the run left another one.
type verdict int

const (
	// inForm: nothing has changed.
	inForm verdict = iota
	// toHeal: it is to be applied again.
	toHeal
	// toRun: only another Run can tell.
	toRun
	// toHold: healing it has to wait for something in the cluster: the end of its
	// own deletion, or its namespace.
	toHold
	// toIgnore: the manifest says to leave it as it is.
	toIgnore
)

// healer puts objects right, each for itself. Watch's goroutine owns it; the requests
// are in goroutines of their own, which hand in what came of them.
type healer struct {
	memory *Healing
	// flying objects are being applied, ready ones are next, in order, and waiting
	// ones have been healed too often of late. All by index.
	flying  map[int]struct{}
	ready   []int
	queued  map[int]struct{}
	waiting map[int]time.Time
	// held objects wait for their namespace.
	held map[int]struct{}

	workers errgroup.Group
	results chan healing
}

// healing is one heal, and what came of it.
type healing struct {
	index int
	// epoch of the limit when it was sent.
	epoch int
	// exists says that the object was there before.
	exists     bool
	live       Live
	digest     inventory.Hash
	contenders []Contender
	err        error
}

func newHealer(memory *Healing, parallel int) *healer {
	if memory == nil {
		memory = NewHealing()
	}
	return &healer{
		memory: memory, flying: map[int]struct{}{}, queued: map[int]struct{}{},
		waiting: map[int]time.Time{}, held: map[int]struct{}{},
		// With room for all, so that none waits for a Watch that has ended.
		results: make(chan healing, parallel),
	}
}

// judge decides about an object that the run applied.
func (w *watcher) judge(obj *watched, live Live, exists bool) verdict {
	switch {
	case obj.foreign:
		if !exists || live.Owner != obj.owner {
			return toRun
		}
		return inForm
	case obj.outdated(w.cluster.Live):
		return toRun // which takes its value anew
	case !applied(obj.status.Action) || obj.object == nil,
		exists && live.Owner == w.project.Key && live.Ownership == obj.ownership:
		return inForm
	case obj.optOut.drift:
		return toIgnore
	case obj.refused:
		return toRun
	case exists && live.Owner != w.project.Key && !orphaned(live) && refusal(w.project.Policy, live.Owner) != "":
		return toRun
	case exists && beingDeleted(live), w.homeless(obj.status.ID):
		return toHold
	default:
		return toHeal
	}
}

// leave says that an object whose manifest is applied needs no request of this run:
// it is as the last one left it, or that is nobody's business, or it is fought over
// and Watch knows when it may be healed again.
func (pl *planner) leave(step *Step, entry inventory.Entry, exists bool) bool {
	step.Status.Contest = pl.p.Healing.of(step.Status.ID, step.Object.Digest).contest
	return step.Status.Contest != nil || step.optOut.drift ||
		exists && step.Before.Owner == pl.s.Inventory.ID() &&
			!entry.Ownership.IsZero() && entry.Ownership == step.Before.Ownership
}

// orphaned says that an object that was applied by this inventory lost nothing but
// the mark of it: fields of it are still ours, and nobody else's mark is there.
func orphaned(live Live) bool { return live.Owner == "" && !live.Ownership.IsZero() }

func beingDeleted(live Live) bool {
	return live.Object.Deleting()
}

// homeless says that the object's namespace is part of the set and is gone, or
// about to be.
func (w *watcher) homeless(id inventory.ID) bool {
	if id.Namespace == "" {
		return false
	}
	home := inventory.ID{GroupKind: namespaceKind, Name: id.Namespace}
	if _, ours := w.index[home]; !ours {
		return false
	}
	live, exists := w.cluster.Live(home)
	return !exists || beingDeleted(live)
}

// drifted acts on the verdict.
func (w *watcher) drifted(i int, v verdict) {
	h, obj := w.healer, &w.objects[i]
	note(w.rerun, i, v == toRun)
	note(h.held, i, v == toHold && obj.status.ID.Namespace != "")
	if v != toHeal {
		delete(h.queued, i)
		delete(h.waiting, i)
		return
	}
	if _, flying := h.flying[i]; flying {
		return
	}
	quarrel := h.memory.of(obj.status.ID, obj.object.Digest)
	due := quarrel.due()
	if due.Before(obj.notBefore) {
		due = obj.notBefore
	}
	if due.After(w.clock.Now()) {
		h.waiting[i] = due
		w.wakeAt(due)
		return
	}
	h.enqueue(i)
}

func (h *healer) enqueue(i int) {
	delete(h.waiting, i)
	if _, queued := h.queued[i]; !queued {
		h.queued[i] = struct{}{}
		h.ready = append(h.ready, i)
	}
}

// release has those looked at again that waited for a namespace.
func (w *watcher) release(namespace string) {
	for i := range w.healer.held {
		if w.objects[i].status.ID.Namespace == namespace {
			w.dirtyOne(i)
			w.poke()
		}
	}
}

// dispatch starts as many heals as may be in flight.
func (w *watcher) dispatch(ctx context.Context) {
	h := w.healer
	for len(h.ready) > 0 && len(h.flying) < cap(h.results) && ctx.Err() == nil {
		ok, wait, epoch := w.project.Limit.room(w.clock.Now(), len(h.flying))
		if !ok {
			if wait > 0 {
				w.wakeAt(w.clock.Now().Add(wait))
			}
			return
		}
		i := h.ready[0]
		h.ready = h.ready[1:]
		if _, queued := h.queued[i]; !queued {
			continue // in form again by now
		}
		delete(h.queued, i)
		obj := &w.objects[i]
		live, exists := w.cluster.Live(obj.status.ID)
		if v := w.judge(obj, live, exists); v != toHeal {
			w.drifted(i, v)
			continue
		}
		h.flying[i] = struct{}{}
		job := healing{index: i, epoch: epoch, exists: exists}
		a := application{
			object: obj.object, id: obj.status.ID, version: obj.status.Version,
			subs: obj.subs, yield: obj.optOut.fields, owner: w.project.Key,
		}
		quarrel := h.memory.of(obj.status.ID, obj.object.Digest)
		h.workers.Go(func() error {
			detached, cancel := detach(ctx)
			defer cancel()
			if exists && quarrel.asks() {
				// That they are not known keeps nobody from healing.
				job.contenders, _ = w.cluster.Contenders(detached, a.id, a.object.JSON)
			}
			job.live, job.digest, job.err = apply(detached, w.cluster, a)
			h.results <- job
			return nil
		})
	}
}

// settle notes what a heal came to.
func (w *watcher) settle(got healing) error {
	h, i := w.healer, got.index
	obj := &w.objects[i]
	delete(h.flying, i)
	id := obj.status.ID
	if errors.Is(got.err, ErrUnavailable) {
		return fmt.Errorf("heal %s: %w", describe(id), got.err)
	}
	w.dirtyOne(i)
	w.poke()
	if !errors.Is(got.err, ErrThrottled) {
		w.project.Limit.answered()
	}
	if got.err != nil {
		w.failed(obj, got)
		return nil //nolint:nilerr // it is the object's alone
	}
	obj.tries, obj.notBefore, obj.note = 0, time.Time{}, ""
	h.memory.keepNote(id, got.digest, "")
	obj.digest, obj.ownership = got.digest, got.live.Ownership
	obj.status.Action = ActionConfigured
	if !got.exists {
		obj.status.Action = ActionCreated
	}
	q := h.memory.healed(id, obj.object.Digest, w.clock.Now(), !got.exists, got.contenders)
	obj.status.Contest = q.contest
	w.wakeAt(w.clock.Now().Add(quiet))
	w.pending.put(id, inventory.Entry{Digest: got.digest, Ownership: got.live.Ownership}, q.contest != nil)
	w.tellContested() // first: who is told of the heal may look
	w.project.Heals.Healed(obj.status)
	return nil
}

// failed has an object healed a little later where that may help, and else leaves it
// to a run, which tries harder, and tells why it fails.
func (w *watcher) failed(obj *watched, got healing) {
	w.project.Heals.HealFailed(obj.status.ID, got.err)
	var throttled *ThrottledError
	switch {
	case errors.As(got.err, &throttled):
		w.project.Limit.throttled(w.clock.Now(), got.epoch, throttled.RetryAfter)
		obj.notBefore = w.clock.Now().Add(max(time.Second, throttled.RetryAfter))
	case errors.Is(got.err, ErrTransient) && obj.tries < transientTries:
		obj.tries++
		obj.notBefore = w.clock.Now().Add(firstPause << obj.tries)
	default:
		obj.refused = true
		w.healer.memory.drop(obj.status.ID)
	}
}

// over tells that nobody quarrels over the object any more.
func (w *watcher) over(i int) {
	obj := &w.objects[i]
	if obj.status.Contest == nil {
		return
	}
	obj.status.Contest = nil
	w.pending.settle(obj.status.ID)
	w.look(obj, i)
	w.observer.Object(obj.status)
}

func (w *watcher) tellContested() {
	w.project.Heals.Contested(w.healer.memory.contested())
}

// due queues what has waited long enough, drops the quarrels that are over, and says
// when to come again; zero: there is nothing to wait for.
func (w *watcher) due() time.Time {
	h, now := w.healer, w.clock.Now()
	over, next := h.memory.settled(now)
	if len(over) > 0 {
		w.tellContested()
	}
	for _, id := range over {
		if i, ok := w.index[id]; ok {
			w.over(i)
		}
	}
	for i, due := range h.waiting {
		if !due.After(now) {
			h.enqueue(i)
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

package gitops

import (
	"context"
	"fmt"
	"slices"

	"github.com/kas-agentk/kas/inventory"
)

// Run brings the cluster to what d wants, as p says, and tells o of every object.
// The package comment says which errors it returns. A Result comes with an error as
// far as the run got.
func Run(ctx context.Context, c Cluster, p Project, d Desired, o Observer) (Result, error) {
	if p.Limit == nil {
		p.Limit = NewLimit(p.parallel())
	}
	tellPhase(o, PhasePlan, len(d.Set.Objects))
	inv, err := c.Load(ctx, p.Key)
	if err != nil {
		return Result{}, ended(ctx, fmt.Errorf("read the inventory: %w", err))
	}
	r := &run{
		cluster: c, project: p, desired: d, observer: o, inv: inv,
		result: Result{Total: len(d.Set.Objects)},
		status: make(map[inventory.ID]*watched, len(d.Set.Objects)),
		told:   make([]watched, 0, len(d.Set.Objects)),
	}
	err = r.all(ctx)
	// What was done is recorded, however the run ended.
	if err == nil && p.RecordLate && !r.mustRecord {
		r.result.unrecorded = inv.Changed()
	} else if saveErr := r.save(ctx); err == nil {
		err = saveErr
	}
	r.finish()
	return r.result, ended(ctx, err)
}

// ended prefers to say that ctx ended over what that led to.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// run is the state of one Run. Only Run's own goroutine uses it.
type run struct {
	cluster  Cluster
	project  Project
	desired  Desired
	observer Observer
	inv      *inventory.Inventory
	result   Result
	// order of the objects as they were first told of.
	order []inventory.ID
	// status of each object, as the observer was last told.
	status map[inventory.ID]*watched
	// told has room for the first of order, in that order.
	told []watched
	// deletions are the objects that the plan has the run delete.
	deletions map[inventory.ID]struct{}
	// mustRecord: what the inventory says is not true any more, which is not to wait.
	mustRecord bool
	// lost: the inventory could not be saved, so that inv is of no more use.
	lost bool
	// troubled is what the observer was last told of what slows the run down.
	troubled string
}

func (r *run) all(ctx context.Context) error {
	steps, err := r.plan(ctx)
	if err != nil {
		return err
	}
	if ok, err := r.agreed(ctx, &steps); err != nil || !ok {
		return err
	}
	if len(steps.Definitions) > 0 && r.project.DryRun == DryRunNone {
		if err := r.record(ctx, steps.Definitions); err != nil {
			return err
		}
		r.phaseOf(PhaseApply, steps.Definitions)
		if err := r.wave(ctx, steps.Definitions); err != nil {
			return err
		}
		r.phase(PhasePlan, r.result.Total)
		if steps, err = r.plan(ctx); err != nil {
			return err
		}
	}
	if len(steps.Unserved) > 0 && r.project.DryRun == DryRunNone {
		r.phase(PhaseServe, len(steps.Unserved))
		if err := r.awaitServed(ctx, steps.Unserved); err != nil {
			return err
		}
		r.phase(PhasePlan, r.result.Total)
		if steps, err = r.plan(ctx); err != nil {
			return err
		}
	}
	return r.execute(ctx, steps)
}

func (r *run) plan(ctx context.Context) (Steps, error) {
	kinds, err := r.cluster.Resolve(ctx, KindsOf(r.desired, r.inv))
	if err != nil {
		return Steps{}, fmt.Errorf("find out what the API server serves: %w", err)
	}
	steps := Plan(r.project, r.desired, State{Inventory: r.inv, Kinds: kinds, Live: r.cluster.Live})
	r.flag(&steps)
	return steps, nil
}

// execute carries out everything; definitions that are still to be applied have
// failed, or this is a dry run.
func (r *run) execute(ctx context.Context, steps Steps) error {
	r.result.HeldBack, r.result.Held, r.result.Waiting = steps.HeldBack, steps.Held, steps.Waiting
	for i := range steps.Verdicts {
		r.tell(&steps.Verdicts[i])
	}
	applies := steps.Waves
	if r.project.DryRun != DryRunNone && len(steps.Definitions) > 0 {
		applies = append([][]Step{steps.Definitions}, applies...)
	}
	for _, wave := range append(applies[:len(applies):len(applies)], steps.Prune...) {
		for i := range wave {
			r.tell(&wave[i])
		}
	}
	if err := r.record(ctx, applies...); err != nil {
		return err
	}
	for _, wave := range applies {
		if err := r.awaitNeeds(ctx, wave); err != nil {
			return err
		}
		r.phaseOf(PhaseApply, wave)
		if err := r.wave(ctx, wave); err != nil {
			return err
		}
	}
	return r.prune(ctx, steps)
}

// prune removes what left the repository, after the applies are on record.
func (r *run) prune(ctx context.Context, steps Steps) error {
	if r.project.DryRun == DryRunNone {
		exists, err := r.confirm(ctx, steps.Unseen)
		if err != nil {
			return err
		}
		for _, id := range steps.Gone {
			if !exists[id] {
				r.forget(id)
			}
		}
	}
	if len(steps.Prune) == 0 {
		return nil
	}
	if err := r.save(ctx); err != nil {
		return err
	}
	r.deletions = deletionsOf(steps.Prune)
	for _, wave := range steps.Prune {
		r.phaseOf(PhasePrune, wave)
		vacant, err := r.vacant(ctx, wave)
		if err != nil {
			return err
		}
		if err := r.wave(ctx, vacant); err != nil {
			return err
		}
	}
	return r.awaitGone(ctx)
}

// record puts new IDs on the inventory, before their objects are sent.
func (r *run) record(ctx context.Context, applies ...[]Step) error {
	if r.project.DryRun != DryRunNone {
		return nil
	}
	for _, wave := range applies {
		for i := range wave {
			id := wave[i].Status.ID
			if _, known := r.inv.Get(id); !known {
				r.inv.Set(id, inventory.Entry{})
			}
		}
	}
	return r.save(ctx)
}

// save writes the inventory, also when ctx has ended.
func (r *run) save(ctx context.Context) error {
	if r.lost || !r.inv.Changed() {
		return nil
	}
	r.phase(PhaseRecord, r.result.Total)
	detached, cancel := detach(ctx)
	defer cancel()
	if err := r.cluster.Save(detached, r.inv); err != nil {
		r.lost = true
		return fmt.Errorf("write the inventory: %w", err)
	}
	return nil
}

// tell shows the observer a step's status.
func (r *run) tell(s *Step) {
	w, ok := r.status[s.Status.ID]
	if !ok {
		w = r.room()
		r.status[s.Status.ID] = w
		r.order = append(r.order, s.Status.ID)
	}
	if s.Status.Action == ActionUnchanged && applied(w.status.Action) {
		s.Status.Action = w.status.Action // what is planned again was applied by this run
	}
	w.status, w.seen, w.leaving, w.uid = s.Status, s.seen, s.Object == nil, s.Before.UID
	w.foreign, w.owner = s.foreign, s.Before.Owner
	w.object, w.optOut, w.subs, w.note, w.lacks = s.Object, s.optOut, s.subs, s.note, s.lacks
	w.digest, w.ownership = inventory.Hash{}, inventory.Hash{}
	if s.Object != nil && applied(s.Status.Action) {
		entry, _ := r.inv.Get(s.Status.ID)
		w.digest, w.ownership = entry.Digest, entry.Ownership
	}
	r.observer.Object(s.Status)
}

// room for one more object: of one piece for all of the set, which finish hands on.
func (r *run) room() *watched {
	if len(r.told) == cap(r.told) {
		return &watched{}
	}
	r.told = r.told[:len(r.told)+1]
	return &r.told[len(r.told)-1]
}

// forget drops an object from the project.
func (r *run) forget(id inventory.ID) {
	r.inv.Delete(id)
	r.project.Healing.keepNote(id, inventory.Hash{}, "")
	delete(r.status, id)
	r.observer.Removed(id)
}

// finish sums the run up.
func (r *run) finish() {
	all := len(r.status) == len(r.told) && len(r.order) == len(r.told) // as mostly
	if r.result.watched = r.told; !all {
		r.result.watched = make([]watched, 0, len(r.status))
	}
	for _, id := range r.order {
		w, ok := r.status[id]
		if !ok {
			continue
		}
		if w.status.Action == ActionFailed || w.status.Action == ActionSkipped && !w.leaving && r.project.DryRun == DryRunNone {
			r.result.Failed++
			r.result.FailedIDs = append(r.result.FailedIDs, id)
		}
		if w.lacks != nil && !slices.Contains(r.result.unserved, *w.lacks) {
			r.result.unserved = append(r.result.unserved, *w.lacks)
		}
		if !all {
			r.result.watched = append(r.result.watched, *w)
		}
	}
	slices.SortFunc(r.result.Held, compareIDs)
}

// applied says that the cluster holds the object as the set asks.
func applied(a Action) bool {
	return a == ActionCreated || a == ActionConfigured || a == ActionUnchanged
}

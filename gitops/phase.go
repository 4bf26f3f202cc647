package gitops

// Phase is a part of a run's work.
type Phase struct {
	Name PhaseName
	// Kind of the objects, where all are of one kind; else empty.
	Kind string
	// Objects that the part is about.
	Objects int
}

// PhaseName says what a Phase does.
type PhaseName string

// The phases, in the order in which a run comes to them, if it does. It plans once more
// after each wave of CRDs, and applies and prunes one wave after another.
const (
	// PhasePlan: what there is is read, and what to do is decided.
	PhasePlan PhaseName = "plan"
	// PhaseTry: the API server is asked whether it would take an atomic commit.
	PhaseTry PhaseName = "try"
	// PhaseRecord: the inventory is written.
	PhaseRecord PhaseName = "record"
	// PhaseServe: CRDs are waited for.
	PhaseServe PhaseName = "wait for definitions"
	// PhaseNeeds: what other objects depend on is waited for.
	PhaseNeeds PhaseName = "wait for dependencies"
	PhaseApply PhaseName = "apply"
	PhasePrune PhaseName = "prune"
	// PhaseGone: deletions are waited for.
	PhaseGone PhaseName = "wait for deletions"
)

// PhaseObserver is an Observer that also wants to hear what a run is at.
type PhaseObserver interface {
	Observer
	// Phase is called when a phase begins. It ends with the next one, or the run.
	Phase(Phase)
}

func tellPhase(o Observer, name PhaseName, objects int) {
	if p, ok := o.(PhaseObserver); ok {
		p.Phase(Phase{Name: name, Objects: objects})
	}
}

// phase tells an observer that wants to know.
func (r *run) phase(name PhaseName, objects int) { tellPhase(r.observer, name, objects) }

// phaseOf tells of one that is about the objects of steps.
func (r *run) phaseOf(name PhaseName, steps []Step) {
	p, ok := r.observer.(PhaseObserver)
	if !ok {
		return
	}
	phase := Phase{Name: name, Objects: len(steps)}
	for i := range steps {
		kind := steps[i].Status.ID.GroupKind.Kind
		if i > 0 && kind != phase.Kind {
			phase.Kind = ""
			break
		}
		phase.Kind = kind
	}
	p.Phase(phase)
}

package gitops

import (
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// Project is how one manifest project wants to be synced.
type Project struct {
	// Key tells the project's inventory from all others in the cluster: the
	// agent's and the project's numbers in RoR, as "<agent>-<project>".
	Key string
	// Agent and Name are what people call the agent and the project in commands.
	Agent, Name string
	// DefaultNamespace of namespaced objects that name none.
	DefaultNamespace string
	// Prune: delete objects that left the repository.
	Prune bool
	// AllowEmpty: an empty set deletes everything. Otherwise it deletes nothing.
	AllowEmpty bool
	// Policy says what to do with an object that exists and is not ours.
	Policy inventory.Policy
	// DryRun: what is sent, but not persisted.
	DryRun DryRun
	// Propagation of deletions: "Foreground", "Background" or "Orphan".
	Propagation string
	// ReconcileTimeout is how long applied objects may take to become healthy
	// before they are reported as late.
	ReconcileTimeout time.Duration
	// PruneTimeout is how long pruned objects may take to be gone before they are
	// reported as late.
	PruneTimeout time.Duration
	// Atomic: all objects of a commit are applied, or none.
	Atomic bool
	// Guard says which deletions wait for a person.
	Guard Guard
	// Ignore are fields that are left to others once somebody else owns them.
	Ignore []IgnoreRule
	// Health judges kinds by rules of the user's own; nil: none.
	Health HealthRules
	// Others knows what the agent's other projects want; nil: there are none.
	Others Others
	// Healing is what one Run or Watch of the project remembers for the next, of
	// objects that somebody else keeps changing or that were created anew; nil:
	// nothing.
	Healing *Healing
	// Heals is told of what is put right; nil: nobody is.
	Heals HealObserver
	// Clock for timeouts; nil: the real one.
	Clock clock.Clock
	// Parallel is how many requests are in flight at a time; zero: DefaultParallel.
	Parallel int
	// Limit that projects share; nil: the project has one of its own.
	Limit *Limit
	// RecordLate has Run return as soon as the cluster holds what is wanted, and Watch,
	// which must follow, record beside its own work what Run applied and what is gone.
	// Everything is on the inventory before it is first applied in any case: where the
	// process dies in between, objects are applied, or looked for, once more.
	RecordLate bool
}

// HealObserver is told of objects that somebody else has changed. It must not block.
type HealObserver interface {
	// Healed is called for every object that was put right.
	Healed(ObjectStatus)
	// HealFailed is called for every heal that the API server refused, also where it
	// is tried again.
	HealFailed(inventory.ID, error)
	// Contested is called with the number of objects that others keep changing, when
	// a Watch begins and whenever there was news of one.
	Contested(int)
}

// nobody is a HealObserver that does not listen.
type nobody struct{}

func (nobody) Healed(ObjectStatus)            {}
func (nobody) HealFailed(inventory.ID, error) {}
func (nobody) Contested(int)                  {}

// DefaultParallel is close to where a small API server takes no more. Where one takes
// less, it says so, and a run sends less.
const DefaultParallel = 64

// Guard stops a run before it deletes at least MinObjects objects that are more than
// MaxPercent of the inventory. A MinObjects of zero, or a MaxPercent of 100, stops
// nothing.
type Guard struct {
	MinObjects, MaxPercent int
	// Approved is the commit whose deletions a person has approved of.
	Approved string
}

// IgnoreRule names fields of some objects. An empty Kind, Namespace or Name matches
// all; Group is matched where Kind is set.
type IgnoreRule struct {
	Group, Kind, Namespace, Name string
	// Fields are JSON pointers (RFC 6901).
	Fields []string
}

// HealthRules judge objects in place of kstatus.
type HealthRules interface {
	// Covers says whether there is a rule for the kind.
	Covers(schema.GroupKind) bool
	// Judge returns false where there is no rule for the kind.
	Judge(*unstructured.Unstructured) (health Health, message string, ok bool)
}

// Others knows what other projects of the same agent want, so that an object may
// move from one to another without being deleted. Its methods may be called by any
// goroutine and do not block.
type Others interface {
	// WantedBy returns the inventory ID of another project whose newest set holds
	// the object.
	WantedBy(id inventory.ID) (inventoryID string, ok bool)
	// Released says that the inventory belongs to another project of this agent,
	// whose newest set is known and does not hold the object any more.
	Released(inventoryID string, id inventory.ID) bool
	// Settled says that the newest sets of all other projects are known, or have
	// been waited for long enough. Nothing is deleted until then, for another
	// project may want it.
	Settled() bool
}

// DryRun says whether a run changes the cluster.
type DryRun int

// DryRunNone changes it, DryRunClient only plans, DryRunServer asks the API server
// to check everything and to persist nothing.
const (
	DryRunNone DryRun = iota
	DryRunClient
	DryRunServer
)

// Desired is what a commit wants the cluster to hold.
type Desired struct {
	Commit string
	Set    manifests.Set
}

// Action is what a run did to an object.
type Action int

// The actions, as syncstatus has them.
const (
	ActionPending Action = iota + 1
	ActionCreated
	ActionConfigured
	ActionUnchanged
	ActionPruned
	ActionSkipped
	ActionFailed
	ActionPruning
)

// Health is the health of a live object, by kstatus.
type Health int

// The healths, as syncstatus has them.
const (
	HealthUnknown Health = iota + 1
	HealthInProgress
	HealthCurrent
	HealthFailed
	HealthTerminating
	HealthNotFound
)

// ObjectStatus is what is known of one object of a run.
type ObjectStatus struct {
	ID      inventory.ID
	Version string
	Action  Action
	Health  Health
	// Message says why, where action or health is not plain.
	Message string
	// Position in the repository; zero for an object that left it.
	Position manifests.Position
	// Contest is set while others keep undoing what the engine does. It must not
	// be changed.
	Contest *Contest
}

// Contest is a quarrel with other field managers over an object.
type Contest struct {
	// Contenders by name; empty where somebody deletes the object.
	Contenders []Contender
	// Heals is how often the engine has put the object right since Since.
	Heals int
	Since time.Time
}

// Contender is a field manager that sets fields which the manifest sets as well.
type Contender struct {
	Manager string
	// Fields as people write them, such as ".spec.replicas"; sorted, at most 20.
	Fields []string
}

// Observer is told how a run goes, by one goroutine at a time. It must not block.
type Observer interface {
	// Object is called whenever an object's status is new or changed. It always
	// gets the whole status: Watch repeats the action of the run.
	Object(ObjectStatus)
	// Removed is called when an object is no longer part of the project: pruned
	// and gone, or let go of.
	Removed(inventory.ID)
}

// TroubleObserver is an Observer that also wants to hear what slows a whole run down.
type TroubleObserver interface {
	Observer
	// Trouble is called with an empty message once it is over.
	Trouble(message string)
}

// Result is how a run ended. Watch takes it.
type Result struct {
	// Objects that the set asks for.
	Total int
	// Failed objects: those that the cluster does not hold as the set asks, because
	// the API server refused them, the inventory policy forbids to touch them
	// (ActionSkipped), or what they depend on failed (ActionSkipped); and prunes
	// that the API server refused. All are worth another Run later, without a new
	// commit.
	Failed int
	// FailedIDs are the objects that Failed counts.
	FailedIDs []inventory.ID
	// HeldBack says why something was not pruned although it left the repository,
	// and what to do about it. Empty: nothing was held back.
	HeldBack string
	// Held are the objects that wait for a person to approve of their deletion
	// (Guard.Approved set to the commit), in the order of their IDs.
	Held []inventory.ID
	// Waiting objects wait for something outside of the commit: for another project
	// of the agent to let go of them or to take them over, or for what keeps a
	// namespace or a CRD from being deleted to go. They are worth another Run when
	// Project.Others has news, and now and then.
	Waiting int

	// watched is what Watch looks after, in the order of the set.
	watched []watched
	// unrecorded: Watch is to write the inventory.
	unrecorded bool
	// unserved kinds that objects need, and namespaces that are not there for them.
	unserved []schema.GroupVersionKind
	homes    map[string]struct{}
}

// Readiness sums up the health of what a run applied.
type Readiness struct {
	// Ready: every object that the run applied or found unchanged is healthy, and
	// everything that it pruned is gone. Objects that failed do not count: the
	// Result told of them.
	Ready bool
	// Late objects are not ready although Project.ReconcileTimeout (for pruned
	// ones PruneTimeout) has passed since Watch began. In the order of the set.
	Late []inventory.ID
	// Drifted objects need another Run, because Watch cannot put them right by
	// itself: those that somebody else took over; those that the policy forbade to
	// touch and that have gone, or changed hands, since, for they must be recorded
	// first; and those whose healing the API server refused, for it may take what
	// else the set holds, or tries and waits as only a Run has them.
	Drifted []inventory.ID
	// Retry: a kind that the run missed is served by now, because somebody has made
	// its CRD, or a namespace that it missed is there, or a kind is not served any more
	// in the version that it was followed in. Another Run is worth while at once.
	Retry bool
}

package gitops

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/inventory"
)

// Cluster is what the engine needs of one. Its methods may be called from several
// goroutines, except that one inventory is loaded and saved by one at a time.
type Cluster interface {
	// Load returns the inventory with this ID; an empty one if there is none yet.
	Load(ctx context.Context, id string) (*inventory.Inventory, error)
	// Save stores the changes made to an inventory that Load returned. After an
	// error the inventory must be loaded anew.
	Save(ctx context.Context, inv *inventory.Inventory) error

	// Resolve finds out how the API server serves kinds, and has Live know all
	// their objects from then on. A kind with an empty version is looked for in
	// whichever version is served. What is wrong with one kind is in its Kind; the
	// error is for what stops everything.
	Resolve(ctx context.Context, kinds []schema.GroupVersionKind) (map[schema.GroupVersionKind]Kind, error)
	// Live returns the object with this ID as last seen, at no cost; false if there
	// is none. It never shows less than the effect of an Apply that has returned.
	// Its kind must have been resolved without an error.
	Live(id inventory.ID) (Live, bool)
	// Notify has changed called, from goroutines of the cluster's own, whenever
	// what Live returns for objects of these kinds may have changed, until stop is
	// called. changed must not block. An ID without a name says that its kind was
	// followed and is not any more, because the version in which it was is no longer
	// served: it takes another Resolve.
	Notify(kinds []schema.GroupKind, changed func(inventory.ID)) (stop func())

	// Read asks the API server for an object as it is now, all of it. Where there is
	// none, the error wraps ErrNotFound. An empty version
	// stands for whichever is served.
	Read(ctx context.Context, id inventory.ID, version string) (*unstructured.Unstructured, error)
	// Apply creates or changes an object and returns it as it is then.
	Apply(ctx context.Context, a Apply) (Live, error)
	// Contenders returns who, besides us, owns fields of the live object that the
	// manifest sets and that we do not own any more. None where it is gone.
	Contenders(ctx context.Context, id inventory.ID, manifest []byte) ([]Contender, error)
	// Remove deletes an object or lets it go. An object that is not there is no
	// error; one that somebody else has taken over since it was seen is left alone,
	// with an error that wraps ErrTakenOver. Deletion may only have begun when it
	// returns.
	Remove(ctx context.Context, r Remove) error
	// Occupants returns what would be lost with a Namespace or CRD beyond what ours
	// is true for: the objects in the one, the instances of the other. What
	// Kubernetes itself puts into every namespace, and what belongs to a controller,
	// does not count. At most MaxOccupants are returned, sorted; more says that
	// there are others. An error means that it cannot be told. ours may be called by
	// several goroutines.
	Occupants(ctx context.Context, id inventory.ID, ours func(inventory.ID) bool) (ids []inventory.ID, more bool, err error)
}

// Kind is how the API server serves one kind.
type Kind struct {
	// Namespaced: its objects live in namespaces.
	Namespaced bool
	// Err says why objects of the kind can be neither seen nor applied.
	Err error
	// Gone says of a kind that is not served that nothing defines it any more, so
	// that its objects are gone as well. It is only found out for kinds that are
	// looked for without a version.
	Gone bool
}

// Live is an object as the cluster has it.
type Live struct {
	UID             types.UID
	ResourceVersion string
	// Owner is the ID of the inventory that the object says owns it; empty: none.
	Owner string
	// Ownership is the hash of the fields we own (see inventory.OwnershipOf); zero
	// where we own none.
	Ownership inventory.Hash
	// Stays says that the object is marked to survive its removal from the
	// repository. It need only be set where Object is nil.
	Stays bool
	// Object is without its managedFields, and of ConfigMaps and Secrets there is the
	// metadata alone. It is nil when the object was just applied and not seen since.
	Object *Snapshot
}

// Apply is a request to create or change one object.
type Apply struct {
	ID inventory.ID
	// Version of the API, without the group.
	Version string
	// JSON of the object, complete with namespace and owning inventory.
	JSON []byte
	// Yield are JSON pointers to fields that are left out where the object exists
	// and somebody else owns them, and we do not.
	Yield []string
	// DryRun: the API server checks all and persists nothing.
	DryRun bool
}

// Remove is a request to delete one object or to let it go.
type Remove struct {
	ID inventory.ID
	// UID that the object must still have; another object of that name is left
	// alone.
	UID types.UID
	// ResourceVersion at which it was seen, and Owner that it had. If it has changed
	// since, it is removed only if it still has that owner.
	ResourceVersion, Owner string
	// Propagation is "Foreground", "Background" or "Orphan".
	Propagation string
	// Detach: do not delete, but remove the mark of the owning inventory.
	Detach bool
	// DryRun: the API server checks all and persists nothing.
	DryRun bool
}

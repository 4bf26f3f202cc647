// Package objects is how the cache of agentk shows the objects of a cluster to those who
// answer questions about them: what there is, and what has changed since, in one order.
//
// A View is of one resource in one Form. Its positions number the changes: an object set
// that was listed at a position and the changes after it make the set of any later one.
// Positions are those of one process: another one's mean nothing, and are told apart by
// the epoch.
package objects

import (
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// Form is what a View has of each object.
type Form int

const (
	// Whole objects, but metadata.managedFields, the annotation of kubectl's client-side
	// apply, and the values of Secrets unless those are configured to be kept.
	Whole Form = iota + 1
	// Metadata of objects alone.
	Metadata
	// Table has the columns that kubectl prints, and the metadata.
	Table
)

// Object is one object as it was seen once. Nobody changes it any more.
type Object struct {
	Namespace, Name, UID, ResourceVersion string
	Created                               time.Time
	Labels                                labels.Set
	// JSON of the object, or of its apiVersion, kind and metadata: by Form; nil for a
	// Table. Whoever changes it copies it first.
	JSON []byte
	// Cells of a table, a text for each of the View's columns. What tells an age as of now
	// is empty here and computed from Created (see Columns).
	Cells []string
}

// Key of an object in its resource: what objects are ordered by.
type Key struct{ Namespace, Name string }

// Column of a table.
type Column struct {
	Name, Type, Format, Description string
	// Priority above zero: kubectl prints it only with --output=wide.
	Priority int32
	// Age: the cell is the time since Object.Created.
	Age bool
}

// Freshness says how far a View is.
type Freshness struct {
	// ResourceVersion is the newest that was seen of the resource.
	ResourceVersion string
	// CurrentAt is when the API server was last heard of with the View up to date.
	CurrentAt time.Time
	// Version and Kind of the objects.
	Version, Kind string
	Namespaced    bool
	// Redacted: the values of Secrets are left out.
	Redacted bool
}

// Change is one step of a View. At least one of Before and After is there.
type Change struct {
	// Before is the object as it was last seen; nil: it is new.
	Before *Object
	// After is the object as it is now; nil: it is deleted.
	After *Object
}

// Position is a place in the order of a View's changes.
type Position struct {
	// Epoch tells the changes that one informer saw, in one process, from all others'.
	Epoch string
	// Sequence is the number of changes since the epoch began.
	Sequence uint64
}

// View is the objects of one resource. It may be used by several goroutines.
type View interface {
	Freshness() Freshness
	// Columns of a Table; nil for other forms.
	Columns() []Column
	// Get returns one object; nil: there is none.
	Get(namespace, name string) *Object
	// List returns the objects of a namespace (empty: of all), in the order of their
	// keys, and the position at which they were so. The caller may change the slice.
	List(namespace string) ([]*Object, Position)
	// Since returns the changes after a position, in order, and the position after them;
	// false: they are not known any more, or the position is none of this View.
	Since(Position) ([]Change, Position, bool)
	// Changed returns a channel that is closed at the next change after a position; it is
	// closed already if there was one.
	Changed(Position) <-chan struct{}
	// Ended is closed when the View is of no more use, because the resource is no longer
	// served or may no longer be read: open another, which says why.
	Ended() <-chan struct{}
	// Release must be called once nobody uses the View any more.
	Release()
}

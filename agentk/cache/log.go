package cache

import (
	"slices"
	"time"

	"github.com/kas-agentk/kas/internal/objects"
)

const (
	// maxLogChanges and maxLogBytes bound a log of changes.
	maxLogChanges = 4096
	maxLogBytes   = 4 << 20
	// recordAfterList is how long changes are recorded after somebody has listed, who
	// may go on to ask for them, and recordAfterChanges after somebody has, who may
	// come back after a connection was lost.
	recordAfterList    = 30 * time.Second
	recordAfterChanges = 5 * time.Minute
)

// changeLog is the newest changes of a store, without a gap.
type changeLog struct {
	// on says that the changes after first are all there.
	on    bool
	first uint64
	// changes, of which the first one is number first+1, and about how many bytes they
	// hold on to that nothing else does.
	changes []objects.Change
	bytes   int
}

// append records a change. sequence is its number.
func (l *changeLog) append(c objects.Change, sequence uint64) {
	if !l.on {
		*l = changeLog{on: true, first: sequence - 1}
	}
	l.changes = append(l.changes, c)
	l.bytes += heldBy(c)
	for len(l.changes) > maxLogChanges || l.bytes > maxLogBytes {
		l.bytes -= heldBy(l.changes[0])
		l.changes[0] = objects.Change{}
		l.changes = l.changes[1:]
		l.first++
	}
}

// stop forgets everything.
func (l *changeLog) stop() { *l = changeLog{} }

// since returns a copy of the changes after a number that is not above the newest, and
// whether they are known.
func (l *changeLog) since(sequence uint64) ([]objects.Change, bool) {
	if !l.on || sequence < l.first {
		return nil, false
	}
	return slices.Clone(l.changes[sequence-l.first:]), true
}

// heldBy is about how many bytes a change holds on to: the object as it was. As it is
// now, the store has it as well, or the change after.
func heldBy(c objects.Change) int {
	const fixed = 64
	o := c.Before
	if o == nil {
		return fixed
	}
	size := fixed + 256 + len(o.JSON) + 16*len(o.Cells)
	for _, cell := range o.Cells {
		size += len(cell)
	}
	return size
}

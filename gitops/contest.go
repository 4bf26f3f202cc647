package gitops

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

const (
	// contestAfter is the number of heals of one object, each soon after the one
	// before, from which on it is taken for a quarrel.
	contestAfter = 3
	// quiet is how long an object must be left alone for its heals to be forgotten.
	quiet = 5 * time.Minute
)

// pace is how long after a heal the next one of the same object comes at the
// earliest, by the number of heals before. What changes once or twice is put right at
// once; two who never give in cost four applies in the first minute and two in each
// after that.
var pace = [...]time.Duration{0, 0, 5 * time.Second, 30 * time.Second}

// Healing remembers the objects of a project that were healed of late, and what there
// is to say of those that were deleted to be created anew. It may be used by several
// goroutines.
type Healing struct {
	mu       sync.Mutex
	quarrels map[inventory.ID]quarrel
	notes    map[inventory.ID]runNote
}

// runNote is what a run has to say of an object until that is applied again.
type runNote struct {
	// digest on record.
	digest inventory.Hash
	text   string
}

// NewHealing returns a memory that is empty.
func NewHealing() *Healing {
	return &Healing{quarrels: map[inventory.ID]quarrel{}, notes: map[inventory.ID]runNote{}}
}

// keepNote remembers what a run said of an object; empty: nothing any more.
func (h *Healing) keepNote(id inventory.ID, digest inventory.Hash, text string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if text == "" {
		delete(h.notes, id)
	} else {
		h.notes[id] = runNote{digest: digest, text: text}
	}
}

// note that an earlier run has left.
func (h *Healing) note(id inventory.ID, digest inventory.Hash) string {
	if h == nil {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.notes[id]; n.digest == digest {
		return n.text
	}
	return ""
}

// quarrel is the heals of one object.
type quarrel struct {
	// digest of the manifest; another one begins anew.
	digest      manifests.Digest
	heals       int
	since, last time.Time
	// contest as it was last shown; nil: it is none yet.
	contest *Contest
	// vanished: the object was gone at the last heal.
	vanished bool
}

// of returns what is remembered of an object; nothing: a quarrel with no heals.
func (h *Healing) of(id inventory.ID, digest manifests.Digest) quarrel {
	if h == nil {
		return quarrel{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ofLocked(id, digest)
}

func (h *Healing) ofLocked(id inventory.ID, digest manifests.Digest) quarrel {
	q := h.quarrels[id]
	if q.digest != digest {
		return quarrel{}
	}
	return q
}

// drop forgets an object.
func (h *Healing) drop(id inventory.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.quarrels, id)
}

// due is when the object may be healed again.
func (q *quarrel) due() time.Time { return q.last.Add(pace[min(q.heals, len(pace)-1)]) }

// asks says that it is time to find out who the others are.
func (q *quarrel) asks() bool { return q.heals >= contestAfter-1 }

// healed notes a heal. contenders are those of a contest, where they were asked for.
func (h *Healing) healed(id inventory.ID, digest manifests.Digest, now time.Time, vanished bool, contenders []Contender) quarrel {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.ofLocked(id, digest)
	if q.heals == 0 {
		q.digest, q.since = digest, now
	}
	q.heals++
	q.last, q.vanished = now, vanished
	if q.heals >= contestAfter {
		if q.contest != nil && len(contenders) == 0 && !vanished {
			contenders = q.contest.Contenders
		}
		// A new one each time: the old one is somebody else's by now.
		q.contest = &Contest{Contenders: contenders, Heals: q.heals, Since: q.since}
	}
	h.quarrels[id] = q
	return q
}

// settled drops and returns what has been quiet for long, and says when the next may
// be; zero: there is none.
func (h *Healing) settled(now time.Time) (over []inventory.ID, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, q := range h.quarrels {
		end := q.last.Add(quiet)
		switch {
		case !now.Before(end):
			delete(h.quarrels, id)
			over = append(over, id)
		case next.IsZero() || end.Before(next):
			next = end
		}
	}
	return over, next
}

// contested counts the quarrels that are shown.
func (h *Healing) contested() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, q := range h.quarrels {
		if q.contest != nil {
			n++
		}
	}
	return n
}

// message says what the quarrel is about and what ends it.
func (q *quarrel) message() string {
	const advice = "find out who, or take the object out of the repository, or set its annotation " +
		DriftAnnotation + ": " + driftIgnore
	switch c := q.contest; {
	case len(c.Contenders) > 0:
		parts := make([]string, len(c.Contenders))
		for i, other := range c.Contenders {
			parts[i] = fmt.Sprintf("agentk and %s both set %s", other.Manager, fieldList(other.Fields))
		}
		return fmt.Sprintf("%s, healed %d times: take the field out of the manifest, or name it in ignore_fields or in the annotation %s, "+
			"or have the other leave it alone", strings.Join(parts, ", "), c.Heals, IgnoreFieldsAnnotation)
	case q.vanished:
		return fmt.Sprintf("somebody keeps deleting the object, agentk has created it again %d times: %s", c.Heals, advice)
	default:
		return fmt.Sprintf("somebody keeps undoing what the manifest says, agentk has healed it %d times: %s", c.Heals, advice)
	}
}

// fieldList names the first fields and counts the others.
func fieldList(fields []string) string {
	const named = 3
	if len(fields) <= named {
		return strings.Join(fields, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(fields[:named], ", "), len(fields)-named)
}

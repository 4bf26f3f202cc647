package query

import (
	"context"
	"time"

	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/objects"
)

// joined is a watch of the rows of a table that are selected by fields which only the
// whole objects have. Both come from Views of their own, each with changes of its own:
// whenever either changes, it is looked up how its object is now in both, and what that
// makes of what the caller knows is told. That ends well in any order, and takes
// remembering what the caller knows.
type joined struct {
	watch       *watch
	rows, whole objects.View
	// told are the rows that the caller knows.
	told map[objects.Key]rowTold
	// atRows and atWhole are the positions that have been told up to.
	atRows, atWhole objects.Position
}

// rowTold is what is remembered of a row.
type rowTold struct {
	uid, resourceVersion string
	created              time.Time
}

func (w *watch) followJoined(ctx context.Context, rows, whole objects.View) error {
	j := &joined{watch: w, rows: rows, whole: whole}
	for {
		w.out.encoder.at(w.server.cfg.Clock.Now())
		if err := j.catchUp(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-rows.Ended():
			return errEnded
		case <-whole.Ended():
			return errEnded
		case <-rows.Changed(j.atRows):
		case <-whole.Changed(j.atWhole):
		}
	}
}

// catchUp tells of what has changed, or of everything.
func (j *joined) catchUp() error {
	if j.told == nil {
		return j.begin()
	}
	ofRows, atRows, knownRows := j.rows.Since(j.atRows)
	ofWhole, atWhole, knownWhole := j.whole.Since(j.atWhole)
	if !knownRows || !knownWhole {
		return j.begin()
	}
	j.atRows, j.atWhole = atRows, atWhole
	seen := make(map[objects.Key]struct{}, len(ofRows)+len(ofWhole))
	for _, changes := range [][]objects.Change{ofRows, ofWhole} {
		for i := range changes {
			key := keyOfChange(&changes[i])
			if _, again := seen[key]; again {
				continue
			}
			seen[key] = struct{}{}
			if err := j.look(key); err != nil {
				return err
			}
		}
	}
	if !j.watch.out.due() {
		return nil
	}
	return j.send()
}

// begin tells of everything there is.
func (j *joined) begin() error {
	var wholes, rows []*objects.Object
	q := j.watch.question
	wholes, j.atWhole = j.whole.List(q.filter.namespace)
	rows, j.atRows = j.rows.List(q.filter.namespace)
	selected := keysOf(wanted(wholes, q.filter.matches))
	j.told = make(map[objects.Key]rowTold, len(selected))
	j.watch.out.reset()
	rows = wanted(rows, func(row *objects.Object) bool {
		_, ok := selected[keyOf(row)]
		return ok
	})
	for _, row := range rows {
		if err := j.tell(keyOf(row), nil, row, row); err != nil {
			return err
		}
	}
	return j.send()
}

// look finds out how an object is now.
func (j *joined) look(key objects.Key) error {
	row, whole := j.rows.Get(key.Namespace, key.Name), j.whole.Get(key.Namespace, key.Name)
	after := row
	if whole == nil || !j.watch.question.filter.matches(whole) {
		after = nil
	}
	var before *objects.Object
	if told, ok := j.told[key]; ok {
		if after != nil && told.uid == after.UID && told.resourceVersion == after.ResourceVersion {
			return nil
		}
		before = &objects.Object{
			Namespace: key.Namespace, Name: key.Name, UID: told.uid, ResourceVersion: told.resourceVersion, Created: told.created,
		}
	}
	return j.tell(key, before, after, row)
}

func (j *joined) tell(key objects.Key, before, after, now *objects.Object) error {
	if after != nil {
		j.told[key] = rowTold{uid: after.UID, resourceVersion: after.ResourceVersion, created: after.Created}
	} else {
		delete(j.told, key)
	}
	return j.watch.out.step(before, after, now, j.cursor)
}

func (j *joined) send() error { return j.watch.out.send(j.cursor(), true) }

// cursor is one that nothing can be gone on from: what the caller knows would have to be
// in it.
func (j *joined) cursor() string { return j.watch.question.unfinished(j.atRows, j.watch.out.told) }

func keyOfChange(c *objects.Change) objects.Key {
	if c.After != nil {
		return keyOf(c.After)
	}
	return keyOf(c.Before)
}

func keysOf(all []*objects.Object) map[objects.Key]struct{} {
	keys := make(map[objects.Key]struct{}, len(all))
	for _, o := range all {
		keys[keyOf(o)] = struct{}{}
	}
	return keys
}

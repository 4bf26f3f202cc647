package query

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
)

// cursorEvery is after how many changes that a watch is not about it tells a cursor all
// the same: an old one is of no use once the View has forgotten what came after.
const cursorEvery = 512

// errEnded says that a View has ended.
var errEnded = errors.New("the view has ended")

func (s *Server) watch(req *clusterstate.WatchRequest, stream grpc.ServerStream) error {
	q, err := questionOf(req.GetQuery())
	if err != nil {
		return err
	}
	w := &watch{server: s, question: q, out: events{parts: parts{stream: stream}, count: s.metrics.items.WithLabelValues("Watch")}}
	w.at = q.readCursor(req.GetCursor())
	for {
		if err := w.follow(stream.Context()); !errors.Is(err, errEnded) {
			return err
		}
	}
}

// watch is one watch at work.
type watch struct {
	server   *Server
	question *question
	out      events
	// at is the position that everything has been told up to; nil: begin anew. A joined watch
	// has its own.
	at *objects.Position
	// passed counts the changes since the newest cursor.
	passed int
}

// follow tells what happens in a View until it ends (errEnded) or ctx does.
func (w *watch) follow(ctx context.Context) error {
	view, err := w.open(ctx, w.question.view)
	if err != nil {
		return err
	}
	defer view.Release()
	var whole objects.View
	if w.question.joined {
		if whole, err = w.open(ctx, objects.Whole); err != nil {
			return err
		}
		defer whole.Release()
	}
	fresh, columns := view.Freshness(), view.Columns()
	if err := fits(w.question, fresh.Namespaced); err != nil {
		return err
	}
	w.out.encoder = newEncoder(w.question.form, w.question.view, columns, w.server.cfg.Clock.Now())
	w.out.first = &clusterstate.WatchResponse{Source: sourceOf(fresh), Columns: columnsOf(columns)}
	if w.question.joined {
		return w.followJoined(ctx, view, whole)
	}
	return w.followOne(ctx, view)
}

// open opens a View that has not ended.
func (w *watch) open(ctx context.Context, form objects.Form) (objects.View, error) {
	view, err := w.server.source.open(ctx, w.question.gvr, form)
	if err != nil {
		return nil, err
	}
	if ended(view) {
		view.Release()
		return nil, status.Errorf(codes.Unavailable, "%s ceased to be known at once: ask again", resourceName(w.question.gvr))
	}
	return view, nil
}

func (w *watch) followOne(ctx context.Context, view objects.View) error {
	for {
		if err := w.catchUp(view); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-view.Ended():
			return errEnded
		case <-view.Changed(*w.at):
		}
	}
}

// catchUp tells what has changed since w.at, or everything.
func (w *watch) catchUp(view objects.View) error {
	w.out.encoder.at(w.server.cfg.Clock.Now())
	if w.at == nil {
		return w.begin(view)
	}
	changes, next, ok := view.Since(*w.at)
	if !ok {
		return w.begin(view)
	}
	done := *w.at
	cursor := func() string { return w.question.cursor(done) }
	for i := range changes {
		if err := w.change(&changes[i], cursor); err != nil {
			return err
		}
		done.Sequence++
	}
	w.at = &next
	w.passed += len(changes)
	if !w.out.due() && w.passed < cursorEvery {
		return nil
	}
	w.passed = 0
	return w.out.send(w.question.cursor(next), true)
}

// change tells of one change.
func (w *watch) change(c *objects.Change, cursor func() string) error {
	before, after := c.Before, c.After
	if before != nil && !w.question.filter.matches(before) {
		before = nil
	}
	if after != nil && !w.question.filter.matches(after) {
		after = nil
	}
	return w.out.step(before, after, c.After, cursor)
}

// begin tells of everything there is.
func (w *watch) begin(view objects.View) error {
	all, at := view.List(w.question.filter.namespace)
	w.out.reset()
	cursor := func() string { return w.question.unfinished(at, w.out.told) }
	for _, o := range wanted(all, w.question.filter.matches) {
		if err := w.out.step(nil, o, o, cursor); err != nil {
			return err
		}
	}
	w.at, w.passed = &at, 0
	return w.out.send(w.question.cursor(at), true)
}

// wanted returns the objects that match. It holds on to few others: its caller may take
// long to send them.
func wanted(all []*objects.Object, matches func(*objects.Object) bool) []*objects.Object {
	few := slices.DeleteFunc(all, func(o *objects.Object) bool { return !matches(o) })
	if len(few) < cap(few)/2 {
		return slices.Clone(few)
	}
	return few
}

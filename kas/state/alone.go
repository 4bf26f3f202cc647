package state

import (
	"context"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// alone tells what a watch of the agent's has that is for this watcher alone, until the
// shared watch has the watcher's cursor, or the agent begins anew and the watch may be
// shared.
func (w *watcher) alone(ctx context.Context) error {
	s := w.server
	s.metrics.private.Inc()
	defer s.metrics.private.Dec()
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan *message)
	var g errgroup.Group
	g.Go(func() error {
		defer close(messages)
		newest := w.cursor
		return s.follow(ctx, w.group.key, func() string { return newest }, func(m *message) error {
			select {
			case messages <- m:
				newest = m.cursor
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	err := w.tellAlone(messages)
	cancel()
	if ended := g.Wait(); err == nil {
		err = ended
	}
	if status.Code(err) == codes.ResourceExhausted && !s.table.crowded(w.group) {
		w.cursor = "" // too many watches: the shared one is one less
		return errAgain
	}
	return err
}

// tellAlone returns nil when there are no more messages.
func (w *watcher) tellAlone(messages <-chan *message) error {
	table := w.server.table
	for {
		var changed <-chan struct{}
		if sh := table.known(w.group); sh != nil {
			_, again, found := sh.find(w.cursor)
			if found {
				return errAgain
			}
			changed = again
		}
		select {
		case <-changed:
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			if m.reset && !table.crowded(w.group) {
				w.cursor = ""
				return errAgain
			}
			if err := w.tell(m); err != nil {
				return err
			}
		}
	}
}

// tell tells a message of an agent.
func (w *watcher) tell(m *message) error {
	if m.reset {
		w.began, w.synced = false, false
	}
	if err := w.send(m.encode(!w.began, !w.synced)); err != nil {
		return err
	}
	w.began, w.synced, w.cursor = true, w.synced || m.synced, m.cursor
	return nil
}

package state

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// noCursor stands in messages in the midst of what a watcher is told first: one that
// comes back with it begins anew. Agents' cursors are others.
const noCursor = "-"

// joined is how large small messages of the log are made by joining them, in bytes.
const joined = 64 << 10

// errAgain has a watcher find its way anew.
var errAgain = errors.New("again")

func (s *Server) serveWatch(stream grpc.ServerStream) error {
	err := s.watch(stream)
	s.metrics.requested(methodWatch, err)
	return err
}

func (s *Server) watch(stream grpc.ServerStream) error {
	agentID, inner, err := receive(stream)
	if err != nil {
		return err
	}
	request := &clusterstate.WatchRequest{}
	if err := proto.Unmarshal(inner, request); err != nil {
		return status.Errorf(codes.InvalidArgument, "request: %s", err)
	}
	key, err := newGroupKey(agentID, request.GetQuery())
	if err != nil {
		return err
	}
	g, err := s.table.join(key)
	if err != nil {
		return err
	}
	defer s.table.leave(g)
	w := &watcher{server: s, group: g, stream: stream}
	if request.GetCursor() != noCursor {
		w.cursor = request.GetCursor()
	}
	err = errAgain
	for errors.Is(err, errAgain) {
		err = w.once(stream.Context())
	}
	if ended := stream.Context().Err(); ended != nil {
		return status.FromContextError(ended).Err()
	}
	return err
}

// watcher is one Watch of RoR. One goroutine uses it.
type watcher struct {
	server *Server
	group  *group
	stream grpc.ServerStream
	// began and synced: source and columns have been told, and everything that there was.
	began, synced bool
	// cursor to go on from. Empty: begin anew.
	cursor string
}

// once finds where the watcher gets its messages, and tells them until that ends. The
// error is errAgain when there is another place.
func (w *watcher) once(ctx context.Context) error {
	table := w.server.table
	if w.cursor == "" {
		sh, err := table.share(w.group)
		if err != nil {
			return err
		}
		if sh == nil {
			return w.alone(ctx)
		}
		return w.follow(ctx, sh, place{})
	}
	if sh := table.known(w.group); sh != nil {
		if at, _, ok := sh.find(w.cursor); ok {
			return w.follow(ctx, sh, at)
		}
	}
	release, ok := table.resume(ctx, w.group)
	if !ok {
		w.cursor = ""
		return errAgain
	}
	defer release()
	return w.alone(ctx)
}

// follow tells what a shared watch has, from a place on.
func (w *watcher) follow(ctx context.Context, sh *shared, at place) error {
	if !w.began {
		w.server.freshen(ctx, w.group.key, sh)
	}
	if !w.began && at != (place{}) {
		top := sh.top()
		if err := w.send(appendCursor(appendHead(nil, top.source, top.columns), w.cursor)); err != nil {
			return err
		}
		w.began = true
	}
	lags := 0
	for {
		step, next, err := sh.next(at)
		switch {
		case errors.Is(err, errCrowded):
			return errAgain
		case err != nil:
			return err
		case step.wait != nil:
			lags = 0
			err = w.pause(ctx, step)
		case step.snapshot != nil:
			if step.behind {
				lags++
				w.server.metrics.behind.Inc()
			}
			if lags > mostLags {
				return errTooSlow
			}
			err = w.tellAll(step.snapshot)
		default:
			err = w.tellLog(step.log)
		}
		if err != nil {
			return err
		}
		at = next
	}
}

// pause waits for something new.
func (w *watcher) pause(ctx context.Context, step step) error {
	if step.told && !w.synced {
		if err := w.send(appendCursor(appendBool(nil, watchSynced), w.cursor)); err != nil {
			return err
		}
		w.synced = true
	}
	select {
	case <-step.wait:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tellAll tells a snapshot.
func (w *watcher) tellAll(all *snapshot) error {
	now := w.server.config.Clock.Now()
	room := 1 << 10
	for _, item := range all.items {
		if room += len(item) + 16; room > grpctool.ChunkSize {
			break
		}
	}
	out := appendBool(appendHead(make([]byte, 0, room), all.source, all.columns), watchReset)
	some := false // items in out
	for _, item := range all.items {
		item = aged(item, all.ages, now)
		if some && len(out)+len(item) > grpctool.ChunkSize {
			if err := w.send(appendCursor(out, noCursor)); err != nil {
				return err
			}
			out = make([]byte, 0, room) // gRPC may still hold the one before
		}
		out, some = appendAdded(out, item), true
	}
	if err := w.send(appendCursor(appendBool(out, watchSynced), all.cursor)); err != nil {
		return err
	}
	w.began, w.synced, w.cursor = true, true, all.cursor
	return nil
}

// tellLog tells messages of a log. Small ones are joined: encoded messages that are
// appended to each other are one message with all events, and the last one's cursor.
func (w *watcher) tellLog(log []logged) error {
	for len(log) > 0 {
		n, size := 1, len(log[0].raw)
		for n < len(log) && size+len(log[n].raw) <= joined {
			size += len(log[n].raw)
			n++
		}
		out := log[0].raw
		if n > 1 {
			out = make([]byte, 0, size)
			for _, l := range log[:n] {
				out = append(out, l.raw...)
			}
		}
		if err := w.send(out); err != nil {
			return err
		}
		w.cursor = log[n-1].cursor
		log = log[n:]
	}
	return nil
}

func (w *watcher) send(message []byte) error {
	if err := w.stream.SendMsg(&grpctool.Raw{Data: message}); err != nil {
		return fmt.Errorf("send to RoR: %w", err)
	}
	return nil
}

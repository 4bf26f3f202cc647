package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
)

// What a Watch is told beside events.
const (
	ToldReset  = "RESET"
	ToldSynced = "SYNCED"
)

// Watch follows objects by the answers of a watch alone and keeps a copy of them. It
// fails the test when the answers cannot be true: an object added twice, one changed or
// deleted that was never added, a version told again or after a newer one, or a first
// answer that neither begins anew nor goes on from a cursor. It owns one goroutine.
type Watch struct {
	c      *ClusterState
	query  *clusterstate.Query
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	items   map[string]*clusterstate.Item
	told    []string
	wrong   []string
	columns []*clusterstate.Column
	cursor  string
	err     error
}

// Watch begins to follow what fits the query. It ends with the test, if not before.
func (c *ClusterState) Watch(query *clusterstate.Query) *Watch {
	c.f.T.Helper()
	return c.follow(query, "", map[string]*clusterstate.Item{})
}

// WatchFrom is Watch with a cursor, which is not that of a copy.
func (c *ClusterState) WatchFrom(query *clusterstate.Query, cursor string) *Watch {
	c.f.T.Helper()
	return c.follow(query, cursor, map[string]*clusterstate.Item{})
}

// Resume goes on where a watch ended, with the copy that it had.
func (c *ClusterState) Resume(w *Watch) *Watch {
	c.f.T.Helper()
	w.Stop()
	return c.follow(w.query, w.cursor, maps.Clone(w.items))
}

func (c *ClusterState) follow(query *clusterstate.Query, cursor string, items map[string]*clusterstate.Item) *Watch {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.f.T.Context()))
	w := &Watch{c: c, query: query, cancel: cancel, ended: make(chan struct{}), cursor: cursor, items: items}
	go func() {
		defer close(w.ended)
		err := w.run(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}()
	c.f.T.Cleanup(func() {
		w.Stop()
		for _, wrong := range w.wrong {
			c.f.T.Errorf("watch of %s: %s", query.GetResource().GetResource(), wrong)
		}
		if c.f.T.Failed() {
			c.f.T.Logf("the watch of %s was told %s", query.GetResource().GetResource(), strings.Join(w.told, ", "))
		}
	})
	return w
}

func (w *Watch) run(ctx context.Context) error {
	var stream grpc.ServerStreamingClient[clusterstate.WatchResponse]
	stream, err := w.c.Client.Watch(ctx, &railsrpc.ClusterWatchRequest{
		AgentId: w.c.AgentID, Request: &clusterstate.WatchRequest{Query: w.query, Cursor: w.cursor},
	})
	for first := true; err == nil; first = false {
		var r *clusterstate.WatchResponse
		if r, err = stream.Recv(); err == nil {
			w.take(r, first)
		}
	}
	return err
}

func (w *Watch) take(r *clusterstate.WatchResponse, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first {
		if r.GetSource() == nil {
			w.wrong = append(w.wrong, "the first answer names no source")
		}
		if w.cursor == "" && !r.GetReset_() {
			w.wrong = append(w.wrong, "the first answer does not begin anew")
		}
		w.columns = r.GetColumns()
	}
	if r.GetReset_() {
		clear(w.items)
		w.told = append(w.told, ToldReset)
	}
	for _, e := range r.GetEvents() {
		w.apply(e)
	}
	if r.GetSynced() {
		w.told = append(w.told, ToldSynced)
	}
	if r.GetCursor() == "" {
		w.wrong = append(w.wrong, "an answer without a cursor")
	}
	w.cursor = r.GetCursor()
}

// apply an event to the copy.
func (w *Watch) apply(e *clusterstate.Event) {
	key, item := KeyOf(e.GetItem()), e.GetItem()
	what := strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_") + " " + item.GetName()
	w.told = append(w.told, what)
	known := w.items[key]
	switch {
	case e.GetType() == clusterstate.EventType_EVENT_TYPE_ADDED && known != nil:
		w.wrong = append(w.wrong, what+", which was there already")
	case e.GetType() != clusterstate.EventType_EVENT_TYPE_ADDED && known == nil:
		w.wrong = append(w.wrong, what+", which was not there")
	case e.GetType() == clusterstate.EventType_EVENT_TYPE_MODIFIED && !newer(item, known):
		w.wrong = append(w.wrong, fmt.Sprintf("%s: version %s after %s", what, item.GetResourceVersion(), known.GetResourceVersion()))
	}
	if e.GetType() == clusterstate.EventType_EVENT_TYPE_DELETED {
		delete(w.items, key)
	} else {
		w.items[key] = item
	}
}

// newer tells whether a is of a later version than b.
func newer(a, b *clusterstate.Item) bool {
	x, errX := strconv.ParseUint(a.GetResourceVersion(), 10, 64)
	y, errY := strconv.ParseUint(b.GetResourceVersion(), 10, 64)
	return errX == nil && errY == nil && x > y
}

// Told is what the watch was told, in order: ToldReset, ToldSynced, or the type of an
// event and the name of its object.
func (w *Watch) Told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

// Times is how often the watch was told that.
func (w *Watch) Times(what string) int {
	n := 0
	for _, told := range w.Told() {
		if told == what {
			n++
		}
	}
	return n
}

// Item is the copy of an object; nil: there is none.
func (w *Watch) Item(key string) *clusterstate.Item {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.items[key]
}

// Columns of the watch, if its shape has them.
func (w *Watch) Columns() []*clusterstate.Column {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.columns
}

// Cursor is the newest.
func (w *Watch) Cursor() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cursor
}

// Versions maps the keys of the copy to resource versions.
func (w *Watch) Versions() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]string{}
	for key, item := range w.items {
		all[key] = item.GetResourceVersion()
	}
	return all
}

// Ended is nil while the watch goes on, and then what it ended with.
func (w *Watch) Ended() error {
	select {
	case <-w.ended:
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.err
	default:
		return nil
	}
}

// WaitEnded waits until the watch has ended by itself, and returns the code.
func (w *Watch) WaitEnded() codes.Code {
	w.c.f.T.Helper()
	w.c.f.Eventually(func() error {
		if w.Ended() == nil {
			return errors.New("the watch goes on")
		}
		return nil
	})
	return status.Code(w.Ended())
}

// WaitTold waits until the watch has been told that, and fails the test when the watch
// ends before.
func (w *Watch) WaitTold(what string) {
	w.c.f.T.Helper()
	w.Wait(func() error {
		if w.Times(what) == 0 {
			return fmt.Errorf("not told %q but %s", what, strings.Join(w.Told(), ", "))
		}
		return nil
	})
}

// Wait is Eventually that fails the test when the watch ends before.
func (w *Watch) Wait(check func() error) {
	w.c.f.T.Helper()
	w.c.f.Eventually(func() error {
		err := check()
		if ended := w.Ended(); err != nil && ended != nil {
			w.c.f.T.Fatalf("the watch ended: %v\nwas waiting because: %v", ended, err)
		}
		return err
	})
}

// Stop ends the watch and waits until it has.
func (w *Watch) Stop() {
	w.cancel()
	<-w.ended
}

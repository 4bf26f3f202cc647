package query

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/internal/objects"
	"github.com/kas-agentk/kas/internal/testkit"
)

// watching is a watch at work.
type watching struct {
	t      *testing.T
	stream *stream[clusterstate.WatchResponse, *clusterstate.WatchResponse]
	ended  chan error
	stop   context.CancelFunc
}

// watchFrom begins a watch. It ends with the test.
func watchFrom(t *testing.T, s *Server, q *clusterstate.Query, cursor string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{
		t: t, ended: make(chan error, 1), stop: cancel,
		stream: &stream[clusterstate.WatchResponse, *clusterstate.WatchResponse]{ctx: ctx, sent: make(chan *clusterstate.WatchResponse)},
	}
	go func() { w.ended <- s.Watch(&clusterstate.WatchRequest{Query: q, Cursor: cursor}, w.stream) }()
	t.Cleanup(cancel)
	return w
}

// next returns the next response.
func (w *watching) next() *clusterstate.WatchResponse {
	w.t.Helper()
	select {
	case m := <-w.stream.sent:
		require.NotEmpty(w.t, m.GetCursor())
		return m
	case err := <-w.ended:
		require.FailNow(w.t, "the watch has ended", "%v", err)
	case <-time.After(testkit.Patience):
		require.FailNow(w.t, "nothing was sent")
	}
	return nil
}

// hangUp ends the watch and waits for it.
func (w *watching) hangUp() {
	w.t.Helper()
	w.stop()
	require.Equal(w.t, codes.Canceled, status.Code(w.end()))
}

func (w *watching) end() error {
	w.t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(testkit.Patience):
		require.FailNow(w.t, "the watch goes on")
		return nil
	}
}

// told is a response in short: "reset +a ~b -c synced".
func told(m *clusterstate.WatchResponse) string {
	var words []string
	if m.GetReset_() {
		words = append(words, "reset")
	}
	for _, e := range m.GetEvents() {
		words = append(words, map[clusterstate.EventType]string{
			clusterstate.EventType_EVENT_TYPE_ADDED: "+", clusterstate.EventType_EVENT_TYPE_MODIFIED: "~", clusterstate.EventType_EVENT_TYPE_DELETED: "-",
		}[e.GetType()]+e.GetItem().GetName())
	}
	if m.GetSynced() {
		words = append(words, "synced")
	}
	return strings.Join(words, " ")
}

func podsQuery() *clusterstate.Query { return &clusterstate.Query{Resource: resource("", "", "pods")} }

func TestWatch_TellsOfEverythingAndThenOfEveryChange(t *testing.T) {
	c := newFakeCache()
	view := c.put(pods, objects.Whole, newFakeView(object("ns", "a", "1", nil, nil), object("ns", "b", "2", nil, nil)))
	s := newServer(t, c, nil)
	w := watchFrom(t, s, podsQuery(), "")
	m := w.next()
	require.Equal(t, "reset +a +b synced", told(m))
	require.Equal(t, "Pod", m.GetSource().GetKind())
	require.Contains(t, string(m.GetEvents()[0].GetItem().GetJson()), `"name":"a"`)
	view.set(object("ns", "a", "3", nil, nil))
	m = w.next()
	require.Equal(t, "~a", told(m))
	require.Nil(t, m.GetSource())
	require.Contains(t, string(m.GetEvents()[0].GetItem().GetJson()), `"resourceVersion":"3"`)
	view.remove("ns", "b")
	m = w.next()
	require.Equal(t, "-b", told(m))
	gone := m.GetEvents()[0].GetItem()
	require.Empty(t, gone.GetJson())
	require.Equal(t, "uid-b", gone.GetUid())
	other := object("ns", "a", "5", nil, nil)
	other.UID = "another"
	view.set(other)
	m = w.next()
	require.Equal(t, "-a +a", told(m), "another object of the same name")
	require.Equal(t, "uid-a", m.GetEvents()[0].GetItem().GetUid())
	require.Equal(t, "another", m.GetEvents()[1].GetItem().GetUid())
	w.hangUp()
	require.InDelta(t, 6, testutil.ToFloat64(s.metrics.items.WithLabelValues("Watch")), 0)
	require.Zero(t, c.held())
}

func TestWatch_NothingThereIsToldAsWell(t *testing.T) {
	c := newFakeCache()
	c.put(pods, objects.Whole, newFakeView())
	w := watchFrom(t, newServer(t, c, nil), podsQuery(), "")
	require.Equal(t, "reset synced", told(w.next()))
	w.hangUp()
}

func TestWatch_SelectionIsEnteredAndLeft(t *testing.T) {
	c := newFakeCache()
	web := labels.Set{"app": "web"}
	view := c.put(pods, objects.Whole, newFakeView(
		object("ns", "a", "1", web, phase("Running")), object("ns", "b", "2", nil, phase("Running")), object("other", "x", "3", web, phase("Running"))))
	q := podsQuery()
	q.Namespace, q.LabelSelector, q.FieldSelector = "ns", "app=web", "status.phase=Running"
	w := watchFrom(t, newServer(t, c, nil), q, "")
	require.Equal(t, "reset +a synced", told(w.next()))
	view.set(object("other", "x", "4", web, phase("Pending"))) // not wanted
	view.set(object("ns", "b", "5", web, phase("Running")))
	require.Equal(t, "+b", told(w.next()))
	view.set(object("ns", "a", "6", web, phase("Failed")))
	m := w.next()
	require.Equal(t, "-a", told(m))
	require.Equal(t, "6", m.GetEvents()[0].GetItem().GetResourceVersion(), "as of when it left")
	view.set(object("ns", "a", "7", web, phase("Failed"))) // still not wanted
	view.remove("ns", "a")
	view.set(object("ns", "b", "8", web, phase("Running")))
	require.Equal(t, "~b", told(w.next()))
	w.hangUp()
}

func TestWatch_GoesOnAfterACursor(t *testing.T) {
	c := newFakeCache()
	view := c.put(pods, objects.Whole, newFakeView(object("ns", "a", "1", nil, nil)))
	s := newServer(t, c, nil)
	w := watchFrom(t, s, podsQuery(), "")
	require.Equal(t, "reset +a synced", told(w.next()))
	view.set(object("ns", "b", "2", nil, nil))
	cursor := w.next().GetCursor()
	w.hangUp()
	view.remove("ns", "a")
	view.set(object("ns", "c", "3", nil, nil))

	w = watchFrom(t, s, podsQuery(), cursor)
	m := w.next()
	require.Equal(t, "-a +c synced", told(m))
	require.Equal(t, "Pod", m.GetSource().GetKind())
	w.hangUp()
	again := watchFrom(t, s, podsQuery(), m.GetCursor())
	require.Equal(t, "synced", told(again.next()), "there is nothing to tell, and it says so")
	again.hangUp()

	view.forget(0)
	for name, test := range map[string]struct {
		query  *clusterstate.Query
		cursor string
	}{
		"what came after is forgotten": {podsQuery(), cursor},
		"it is another query's":        {&clusterstate.Query{Resource: resource("", "v1", "pods")}, m.GetCursor()},
		"it is none":                   {podsQuery(), "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			w := watchFrom(t, s, test.query, test.cursor)
			require.Equal(t, "reset +b +c synced", told(w.next()))
			w.hangUp()
		})
	}
}

func TestWatch_CursorsAreToldEvenIfNothingElseIs(t *testing.T) {
	c := newFakeCache()
	view := c.put(pods, objects.Whole, newFakeView())
	s := newServer(t, c, nil)
	q := podsQuery()
	q.Namespace = "quiet"
	w := watchFrom(t, s, q, "")
	require.Equal(t, "reset synced", told(w.next()))
	for i := range cursorEvery {
		view.set(object("ns", "a", fmt.Sprint(i), nil, nil))
	}
	m := w.next()
	require.Empty(t, told(m))
	w.hangUp()
	view.forget(0)
	w = watchFrom(t, s, q, m.GetCursor())
	require.Equal(t, "synced", told(w.next()))
	w.hangUp()
}

func TestWatch_SlowReaderIsBegunAnewAndMessagesAreSmall(t *testing.T) {
	c := newFakeCache()
	view := c.put(pods, objects.Whole, newFakeView())
	big := map[string]any{"data": strings.Repeat("x", 200<<10)}
	for i := range 10 {
		view.set(object("ns", fmt.Sprint(i), "1", nil, big))
	}
	s := newServer(t, c, nil)
	w := watchFrom(t, s, podsQuery(), "")
	first := w.next()
	require.True(t, first.GetReset_())
	require.False(t, first.GetSynced())
	view.remove("ns", "9") // while everything is being told
	view.forget(0)
	all, cursors := told(first), map[string]struct{}{first.GetCursor(): {}}
	for m := first; !m.GetSynced(); {
		m = w.next()
		require.Less(t, proto.Size(m), 1<<20)
		require.NotContains(t, cursors, m.GetCursor())
		cursors[m.GetCursor()] = struct{}{}
		all += " " + told(m)
	}
	require.Equal(t, "reset +0 +1 +2 +3 +4 +5 +6 +7 +8 +9 synced", all)
	all = ""
	for m := (*clusterstate.WatchResponse)(nil); !m.GetSynced(); {
		m = w.next()
		all += " " + told(m)
	}
	require.Equal(t, " reset +0 +1 +2 +3 +4 +5 +6 +7 +8 synced", all, "it no longer knows what came meanwhile")

	// A burst comes in few messages, each of which can be gone on from.
	for i := range 8 {
		view.set(object("ns", fmt.Sprint(i), "2", nil, big))
	}
	view.set(object("ns", "last", "2", nil, nil))
	all = ""
	var early string
	messages := 0
	for ; !strings.HasSuffix(all, "+last"); messages++ {
		m := w.next()
		require.Less(t, proto.Size(m), 1<<20)
		all += " " + told(m)
		if early == "" {
			early = m.GetCursor()
		}
	}
	require.LessOrEqual(t, messages, 4)
	require.Equal(t, " ~0 ~1 ~2 ~3 ~4 ~5 ~6 ~7 +last", all)
	w.hangUp()

	w = watchFrom(t, s, podsQuery(), early)
	rest := ""
	for m := (*clusterstate.WatchResponse)(nil); !m.GetSynced(); {
		m = w.next()
		require.False(t, m.GetReset_())
		rest += " " + told(m)
	}
	require.True(t, strings.HasSuffix(all+" synced", rest), rest)
	w.hangUp()
}

func TestWatch_ViewThatEndsIsOpenedAgain(t *testing.T) {
	c := newFakeCache()
	first := c.put(pods, objects.Whole, newFakeView(object("ns", "a", "1", nil, nil)))
	w := watchFrom(t, newServer(t, c, nil), podsQuery(), "")
	require.Equal(t, "reset +a synced", told(w.next()))
	second := newFakeView(object("ns", "b", "2", nil, nil))
	second.epoch, second.fresh.Version = "another", "v2"
	c.put(pods, objects.Whole, second)
	close(first.ended)
	m := w.next()
	require.Equal(t, "reset +b synced", told(m))
	require.Equal(t, "v2", m.GetSource().GetVersion())

	c.fail(pods, objects.Whole, apierrors.NewForbidden(pods.GroupResource(), "", errors.New("cannot watch")))
	close(second.ended)
	err := w.end()
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.ErrorContains(t, err, "cannot watch")
	require.Zero(t, c.held())
}

func TestWatch_ViewThatEndsAtOnceIsNotOpenedForEver(t *testing.T) {
	c := newFakeCache()
	close(c.put(pods, objects.Whole, newFakeView()).ended)
	w := watchFrom(t, newServer(t, c, nil), podsQuery(), "")
	require.Equal(t, codes.Unavailable, status.Code(w.end()))
	require.Zero(t, c.held())
}

func TestWatch_OnlySoManyAtATime(t *testing.T) {
	c := newFakeCache()
	c.put(pods, objects.Whole, newFakeView())
	s := newServer(t, c, func(cfg *Config) { cfg.MaxWatches = 2 })
	one, two := watchFrom(t, s, podsQuery(), ""), watchFrom(t, s, podsQuery(), "")
	one.next()
	two.next()
	err := watchFrom(t, s, podsQuery(), "").end()
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "this agent has 2 watches open")
	one.hangUp()
	three := watchFrom(t, s, podsQuery(), "")
	three.next()
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.watches), 0)
	two.hangUp()
	three.hangUp()
	require.Zero(t, testutil.ToFloat64(s.metrics.watches))
	require.InDelta(t, 1, testutil.ToFloat64(s.metrics.requests.WithLabelValues("Watch", "ResourceExhausted")), 0)
	require.InDelta(t, 3, testutil.ToFloat64(s.metrics.requests.WithLabelValues("Watch", "Canceled")), 0)
}

func TestWatch_TableSelectedByFieldsOfTheWholeObjects(t *testing.T) {
	c := newFakeCache()
	rows := c.put(pods, objects.Table, table(row("ns", "a", "1", nil, "Running"), row("ns", "b", "2", nil, "Pending")))
	wholes := c.put(pods, objects.Whole, newFakeView(object("ns", "a", "1", nil, phase("Running")), object("ns", "b", "2", nil, phase("Pending"))))
	q := podsQuery()
	q.Shape, q.FieldSelector = clusterstate.Shape_SHAPE_TABLE, "status.phase=Running"
	s := newServer(t, c, nil)
	w := watchFrom(t, s, q, "")
	m := w.next()
	require.Equal(t, "reset +a synced", told(m))
	require.Len(t, m.GetColumns(), 3)
	require.Equal(t, []string{"a", "Running", "5h"}, m.GetEvents()[0].GetItem().GetCells())

	// It is selected before its row says so.
	wholes.set(object("ns", "b", "3", nil, phase("Running")))
	m = w.next()
	require.Equal(t, "+b", told(m))
	rows.set(row("ns", "b", "3", nil, "Running"))
	m = w.next()
	require.Equal(t, "~b", told(m))
	require.Equal(t, []string{"b", "Running", "5h"}, m.GetEvents()[0].GetItem().GetCells())
	// Its row says so before it is selected.
	rows.set(row("ns", "c", "4", nil, "Running"))
	wholes.set(object("ns", "c", "4", nil, phase("Running")))
	require.Equal(t, "+c", told(w.next()))
	wholes.set(object("ns", "a", "5", nil, phase("Failed")))
	m = w.next()
	require.Equal(t, "-a", told(m))
	require.Empty(t, m.GetEvents()[0].GetItem().GetCells())
	rows.remove("ns", "b")
	require.Equal(t, "-b", told(w.next()))
	wholes.remove("ns", "b")
	wholes.set(object("ns", "c", "6", labels.Set{"x": "y"}, phase("Running"))) // nothing that the row shows, yet
	rows.set(row("ns", "c", "6", labels.Set{"x": "y"}, "Running"))
	m = w.next()
	require.Equal(t, "~c", told(m))
	w.hangUp()
	w = watchFrom(t, s, q, m.GetCursor())
	require.Equal(t, "reset +c synced", told(w.next()), "it begins anew, always")
	rows.forget(0)
	wholes.set(object("ns", "c", "7", nil, phase("Failed")))
	require.Equal(t, "-c", told(w.next()))
	w.hangUp()
	require.Zero(t, c.held())
}

// TestWatch_EndsWithWhatThereIs holds a watch in a storm of changes, cut off and gone on
// with again and again, against what there is in the end, and each event against what
// was known before.
func TestWatch_EndsWithWhatThereIs(t *testing.T) {
	for name, shape := range map[string]clusterstate.Shape{
		"objects": clusterstate.Shape_SHAPE_OBJECT, "joined": clusterstate.Shape_SHAPE_TABLE,
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCache()
			wholes := c.put(pods, objects.Whole, newFakeView())
			rows := c.put(pods, objects.Table, table())
			s := newServer(t, c, nil)
			q := podsQuery()
			q.Shape, q.FieldSelector = shape, "status.phase=Running"
			stormed := make(chan struct{})
			go func() {
				defer close(stormed)
				random := rand.New(rand.NewPCG(1, 2))
				for i := range 4000 {
					name, rv := fmt.Sprint(random.IntN(20)), fmt.Sprint(i)
					p := []string{"Running", "Pending", ""}[random.IntN(3)]
					if p == "" {
						wholes.remove("ns", name)
						rows.remove("ns", name)
					} else {
						wholes.set(object("ns", name, rv, nil, phase(p)))
						rows.set(row("ns", name, rv, nil, p))
					}
					if i%1000 == 999 {
						wholes.forget(10)
					}
				}
				wholes.set(object("ns", "last", "last", nil, phase("Running")))
				rows.set(row("ns", "last", "last", nil, "Running"))
			}()
			known := map[string]string{}
			messages := 0
			w := watchFrom(t, s, q, "")
			for known["last"] == "" {
				m := w.next()
				if m.GetReset_() {
					clear(known)
				}
				for _, e := range m.GetEvents() {
					had, has := known[e.GetItem().GetName()], e.GetItem().GetResourceVersion()
					switch e.GetType() {
					case clusterstate.EventType_EVENT_TYPE_ADDED:
						require.Empty(t, had)
						known[e.GetItem().GetName()] = has
					case clusterstate.EventType_EVENT_TYPE_MODIFIED:
						require.NotEmpty(t, had)
						require.NotEqual(t, had, has)
						known[e.GetItem().GetName()] = has
					default:
						require.NotEmpty(t, had)
						delete(known, e.GetItem().GetName())
					}
				}
				if messages++; messages%7 == 0 {
					w.stop()
					require.Error(t, w.end())
					w = watchFrom(t, s, q, m.GetCursor())
				}
			}
			<-stormed
			w.hangUp()
			want := map[string]string{}
			all, _ := wholes.List("")
			for _, o := range all {
				if strings.Contains(string(o.JSON), "Running") {
					want[o.Name] = o.ResourceVersion
				}
			}
			if shape == clusterstate.Shape_SHAPE_TABLE {
				// What came last may be on its way: it is looked up as it is.
				w = watchFrom(t, s, q, "")
				known = map[string]string{}
				for _, e := range w.next().GetEvents() {
					known[e.GetItem().GetName()] = e.GetItem().GetResourceVersion()
				}
				w.hangUp()
			}
			require.Equal(t, want, known)
		})
	}
}

package state

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/api/clusterstate"
)

const (
	// crowdedTime is how long a watch that took too much memory is not shared.
	crowdedTime = 10 * time.Minute
	// mostResuming is how many watchers of one group may have watches of their own at a time
	// to go on from their cursors. Others wait for so long, and then begin anew.
	mostResuming = 32
	resumeWait   = 5 * time.Second
)

// errDraining ends watches when kas stops.
var errDraining = status.Error(codes.Unavailable, "kas is shutting down")

// limits of one shared watch.
type limits struct {
	watchBytes, logBytes int64
	logMessages          int
}

// budget counts what all shared watches keep.
type budget struct {
	most    int64
	kept    atomic.Int64
	metrics *metrics
}

func (b *budget) add(n int64) {
	b.kept.Add(n)
	b.metrics.kept.Add(float64(n))
}

func (b *budget) exceeded() bool { return b.kept.Load() > b.most }

// groupKey is what watchers have in common who may share a watch.
type groupKey struct {
	agentID int64
	query   string // encoded, the same for queries that ask the same
}

func newGroupKey(agentID int64, query *clusterstate.Query) (groupKey, error) {
	if query.GetShape() == clusterstate.Shape_SHAPE_UNSPECIFIED {
		query = proto.CloneOf(query)
		if query == nil {
			query = &clusterstate.Query{}
		}
		query.Shape = clusterstate.Shape_SHAPE_OBJECT
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(query)
	if err != nil {
		return groupKey{}, status.Errorf(codes.InvalidArgument, "query: %s", err)
	}
	return groupKey{agentID, string(data)}, nil
}

// group is the watchers of one key. What changes is guarded by table.mu.
type group struct {
	key groupKey
	// resuming holds something for each watcher that has a watch of its own: see resume.
	resuming chan struct{}
	watchers int
	// idle is when the last watcher left.
	idle time.Time
	// reading is the shared watch; nil: there is none.
	reading *reading
	// crowded is until when there is to be none.
	crowded time.Time
}

// reading is a shared watch and who reads it.
type reading struct {
	*shared
	group *group
	// end ends the reader; nil: it has not begun. Guarded by table.mu.
	end context.CancelFunc
}

// table has the groups that have watchers or had some until a moment ago.
type table struct {
	clock   clock.WithTicker
	linger  time.Duration
	most    int
	limits  limits
	budget  *budget
	metrics *metrics
	wake    chan struct{} // holds something while pending is not empty

	mu       sync.Mutex
	groups   map[groupKey]*group
	watchers int
	pending  []*reading // to be begun by run
	ended    bool
}

func newTable(c Config, m *metrics) *table {
	return &table{
		clock: c.Clock, linger: c.Linger, most: c.Watchers, metrics: m,
		limits: limits{watchBytes: c.WatchBytes, logBytes: c.LogBytes, logMessages: c.LogMessages},
		budget: &budget{most: c.TotalBytes, metrics: m},
		wake:   make(chan struct{}, 1),
		groups: make(map[groupKey]*group),
	}
}

// join lets a watcher in. Each join needs one leave.
func (t *table) join(k groupKey) (*group, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ended:
		return nil, errDraining
	case t.watchers >= t.most:
		return nil, status.Errorf(codes.ResourceExhausted, "kas has %d open watches of clusters and takes no more", t.watchers)
	}
	g := t.groups[k]
	if g == nil {
		g = &group{key: k, resuming: make(chan struct{}, mostResuming)}
		t.groups[k] = g
	}
	g.watchers++
	t.watchers++
	t.metrics.watchers.Inc()
	return g, nil
}

func (t *table) leave(g *group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g.watchers--
	t.watchers--
	t.metrics.watchers.Dec()
	if g.watchers == 0 {
		g.idle = t.clock.Now()
	}
}

// share returns the shared watch of a group, and begins it where there is none; nil: it
// is not to be shared.
func (t *table) share(g *group) (*shared, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shareLocked(g)
}

func (t *table) shareLocked(g *group) (*shared, error) {
	switch {
	case t.ended:
		return nil, errDraining
	case g.crowded.After(t.clock.Now()):
		return nil, nil
	case g.reading == nil:
		g.reading = &reading{shared: newShared(t.clock, t.limits, t.budget), group: g}
		t.pending = append(t.pending, g.reading)
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	return g.reading.shared, nil
}

// known returns the shared watch of a group; nil: there is none.
func (t *table) known(g *group) *shared {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.reading == nil {
		return nil
	}
	return g.reading.shared
}

// crowded says whether the group's watch takes too much memory to be shared.
func (t *table) crowded(g *group) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return g.crowded.After(t.clock.Now())
}

// resume lets a watcher have a watch of its own to go on from its cursor, until it calls
// release; false: there are too many, and they do not find their way to the shared one.
// That one begins here, unless the watcher is the only one.
func (t *table) resume(ctx context.Context, g *group) (release func(), ok bool) {
	t.mu.Lock()
	if g.watchers > 1 {
		_, _ = t.shareLocked(g) // it goes without
	}
	crowded := g.crowded.After(t.clock.Now())
	t.mu.Unlock()
	if crowded { // everybody has one
		return func() {}, true
	}
	release = func() { <-g.resuming }
	select {
	case g.resuming <- struct{}{}:
		return release, true
	default:
	}
	timer := t.clock.NewTimer(resumeWait)
	defer timer.Stop()
	select {
	case g.resuming <- struct{}{}:
		return release, true
	case <-timer.C():
	case <-ctx.Done():
	}
	return nil, false
}

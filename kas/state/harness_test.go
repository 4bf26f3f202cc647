package state

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/retry"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// serveOn serves in memory and returns a connection.
func serveOn(tb testing.TB, server *grpc.Server, options ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	listener := bufconn.Listen(64 << 10)
	var g errgroup.Group
	g.Go(func() error { return testkit.Serve(server, listener) })
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:///memory", options...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := g.Wait(); err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return conn
}

// fakeTunnel reaches fake agents, and says of others what the tunnel says.
type fakeTunnel struct {
	mu    sync.Mutex
	conns map[int64]grpc.ClientConnInterface
}

func (f *fakeTunnel) Conn(agentID int64) grpc.ClientConnInterface {
	f.mu.Lock()
	defer f.mu.Unlock()
	if conn := f.conns[agentID]; conn != nil {
		return conn
	}
	return away(agentID)
}

// away is an agent that is not connected.
type away int64

func (a away) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return status.Errorf(codes.Unavailable, "agent %d is not connected", int64(a))
}

func (a away) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, a.Invoke(ctx, method, nil, nil)
}

// connect adds an agent that answers with service.
func (f *fakeTunnel) connect(tb testing.TB, agentID int64, service agentrpc.ClusterQueryServer) {
	tb.Helper()
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	agentrpc.RegisterClusterQueryServer(server, service)
	conn := serveOn(tb, server, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(grpctool.RawCodec())))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[agentID] = conn
}

// Connected implements Agents.
func (f *fakeTunnel) Connected(_ context.Context, ids []int64, project *int64) []*railsrpc.ConnectedAgent {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*railsrpc.ConnectedAgent
	for id := int64(1); id < 1000; id++ {
		wanted := project != nil && *project == 3 // every agent is configured there
		for _, one := range ids {
			wanted = wanted || one == id
		}
		if f.conns[id] != nil && wanted {
			// Two replicas each.
			out = append(out, &railsrpc.ConnectedAgent{AgentId: id}, &railsrpc.ConnectedAgent{AgentId: id})
		}
	}
	return out
}

// harness is kas and its agents.
type harness struct {
	tunnel  *fakeTunnel
	clock   *clocktesting.FakeClock
	server  *Server
	metrics *prometheus.Registry
	client  railsrpc.ClusterStateClient
	conn    *grpc.ClientConn
	// stop ends Run.
	stop func()
}

func newTunnel() *fakeTunnel { return &fakeTunnel{conns: map[int64]grpc.ClientConnInterface{}} }

// start starts kas.
func start(tb testing.TB, tunnel *fakeTunnel, change ...func(*Config)) *harness {
	tb.Helper()
	h := &harness{tunnel: tunnel, clock: clocktesting.NewFakeClock(started), metrics: prometheus.NewRegistry()}
	config := DefaultConfig()
	config.Clock = h.clock
	config.Reopen = retry.Policy{Initial: time.Millisecond, Max: 2 * time.Millisecond}
	for _, c := range change {
		c(&config)
	}
	h.server = NewServer(config, Collaborators{Tunnel: h.tunnel, Agents: h.tunnel, Registerer: h.metrics, Log: testkit.Logger(tb)})
	rpc := grpc.NewServer(grpc.ForceServerCodecV2(grpctool.RawCodec()), grpc.WaitForHandlers(true))
	h.server.Register(rpc)
	grpc_health_v1.RegisterHealthServer(rpc, health.NewServer())
	reflection.Register(rpc)
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- h.server.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("run: %v", err)
		}
	})
	tb.Cleanup(func() {
		h.stop()
		for _, gauge := range []prometheus.Collector{h.server.metrics.watchers, h.server.metrics.shared, h.server.metrics.private, h.server.metrics.kept} {
			if n := testutil.ToFloat64(gauge); n != 0 {
				tb.Errorf("%v is %v in the end", gauge, n)
			}
		}
	})
	h.conn = serveOn(tb, rpc)
	h.client = railsrpc.NewClusterStateClient(h.conn)
	return h
}

// cluster is an agent whose objects change. The number of a change is the resource
// version of its object, and the cursor after it is its epoch and that number.
type cluster struct {
	agentrpc.UnimplementedClusterQueryServer

	mu      sync.Mutex
	epoch   string
	objects map[string]*clusterstate.Item
	log     []*clusterstate.Event // all there ever were in this epoch
	changed chan struct{}
	cut     chan struct{} // closed to break all watches
	refuse  error         // what watches are told
	open    int
	opened  int
	resumed int
	lists   int
	// batch is how many events a message has at most.
	batch int
	pad   string
}

func newCluster(names ...string) *cluster {
	c := &cluster{epoch: "a", objects: map[string]*clusterstate.Item{}, changed: make(chan struct{}), cut: make(chan struct{}), batch: 3}
	for _, n := range names {
		c.put(n)
	}
	return c
}

func (c *cluster) put(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := clusterstate.EventType_EVENT_TYPE_ADDED
	if c.objects[name] != nil {
		kind = clusterstate.EventType_EVENT_TYPE_MODIFIED
	}
	item := &clusterstate.Item{
		Namespace: "ns", Name: name, ResourceVersion: strconv.Itoa(len(c.log) + 1), Json: []byte(c.pad),
		Created: started.Add(-time.Hour).Unix(), Cells: []string{name, "60m"},
	}
	c.objects[name] = item
	c.tell(&clusterstate.Event{Type: kind, Item: item})
}

func (c *cluster) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.objects, name)
	c.tell(&clusterstate.Event{Type: clusterstate.EventType_EVENT_TYPE_DELETED, Item: &clusterstate.Item{
		Namespace: "ns", Name: name, ResourceVersion: strconv.Itoa(len(c.log) + 1),
	}})
}

func (c *cluster) tell(e *clusterstate.Event) {
	c.log = append(c.log, e)
	close(c.changed)
	c.changed = make(chan struct{})
}

// sever breaks all watches.
func (c *cluster) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.cut)
	c.cut = make(chan struct{})
}

// restart has the agent forget what it told, and breaks all watches.
func (c *cluster) restart(epoch string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = epoch
	c.log = nil
	for _, item := range c.objects {
		c.log = append(c.log, &clusterstate.Event{Type: clusterstate.EventType_EVENT_TYPE_ADDED, Item: item})
	}
	for i, e := range c.log {
		e.Item.ResourceVersion = strconv.Itoa(i + 1)
	}
	close(c.cut)
	c.cut = make(chan struct{})
}

func (c *cluster) counts() (open, opened, resumed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, c.opened, c.resumed
}

func (c *cluster) cursor(n int) string { return fmt.Sprintf("%s/%d", c.epoch, n) }

var sourceOf = &clusterstate.Source{ResourceVersion: "1", Kind: "Pod"}

// Watch implements agentrpc.ClusterQueryServer.
func (c *cluster) Watch(req *clusterstate.WatchRequest, stream grpc.ServerStreamingServer[clusterstate.WatchResponse]) error {
	c.mu.Lock()
	cut, epoch, refuse := c.cut, c.epoch, c.refuse
	at, resumed := 0, false
	if number, ok := strings.CutPrefix(req.GetCursor(), c.epoch+"/"); ok {
		at, _ = strconv.Atoi(number)
		resumed = true
		c.resumed++
	}
	c.open++
	c.opened++
	var first []*clusterstate.Event
	if !resumed {
		at = len(c.log)
		for _, item := range c.objects {
			first = append(first, &clusterstate.Event{Type: clusterstate.EventType_EVENT_TYPE_ADDED, Item: item})
		}
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open--
	}()
	if refuse != nil {
		return refuse
	}
	top := &clusterstate.WatchResponse{Source: sourceOf, Columns: tableOf(req.GetQuery()), Reset_: !resumed, Cursor: epoch + "/dump"}
	if resumed {
		top.Cursor = c.cursor(at)
	}
	for len(first) > c.batch {
		top.Events = first[:c.batch]
		if err := stream.Send(top); err != nil {
			return err
		}
		first = first[c.batch:]
		top = &clusterstate.WatchResponse{Cursor: top.GetCursor()}
	}
	top.Events, top.Synced, top.Cursor = first, true, fmt.Sprintf("%s/%d", epoch, at)
	if err := stream.Send(top); err != nil {
		return err
	}
	for {
		c.mu.Lock()
		if c.epoch != epoch {
			c.mu.Unlock()
			return status.Error(codes.Unavailable, "gone")
		}
		events := c.log[at:min(len(c.log), at+c.batch)]
		changed := c.changed
		c.mu.Unlock()
		if len(events) > 0 {
			at += len(events)
			if err := stream.Send(&clusterstate.WatchResponse{Events: events, Cursor: fmt.Sprintf("%s/%d", epoch, at)}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-cut:
			return status.Error(codes.Unavailable, "cut")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func tableOf(query *clusterstate.Query) []*clusterstate.Column {
	if query.GetShape() != clusterstate.Shape_SHAPE_TABLE {
		return nil
	}
	return []*clusterstate.Column{{Name: "Name", Type: "string"}, {Name: "Age", Type: "string", Age: true}}
}

// List implements agentrpc.ClusterQueryServer.
func (c *cluster) List(req *clusterstate.ListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
	c.mu.Lock()
	c.lists++
	n := len(c.log)
	c.mu.Unlock()
	return stream.Send(&clusterstate.ListResponse{
		Source:    &clusterstate.Source{ResourceVersion: strconv.Itoa(n)},
		Items:     []*clusterstate.Item{{Name: fmt.Sprint("limit ", req.GetLimit())}},
		Remaining: uint64(n),
	})
}

// follower is one who watches, and who trusts nobody: see check.
type follower struct {
	stream   grpc.ServerStreamingClient[clusterstate.WatchResponse]
	items    map[string]*clusterstate.Item
	cursor   string
	resets   int
	synced   bool
	messages int
	// at is the number of the newest change; zero: not known.
	at int
}

// watch begins to watch.
func (h *harness) watch(ctx context.Context, tb testing.TB, request *clusterstate.WatchRequest) *follower {
	tb.Helper()
	stream, err := h.client.Watch(ctx, &railsrpc.ClusterWatchRequest{AgentId: 7, Request: request})
	if err != nil {
		tb.Fatal(err)
	}
	return &follower{stream: stream, items: map[string]*clusterstate.Item{}, cursor: request.GetCursor()}
}

// again goes on from where another follower is.
func (f *follower) again(other *follower) *follower {
	f.items, f.cursor, f.at = other.items, other.cursor, other.at
	return f
}

// next reads a message and checks that it fits what came before.
func (f *follower) next() (*clusterstate.WatchResponse, error) {
	m, err := f.stream.Recv()
	if err != nil {
		return nil, err
	}
	f.messages++
	if f.messages == 1 && m.GetSource() == nil {
		return m, errors.New("the first message has no source")
	}
	if m.GetCursor() == "" {
		return m, errors.New("a message has no cursor")
	}
	if m.GetReset_() {
		f.items, f.at, f.synced = map[string]*clusterstate.Item{}, 0, false
		f.resets++
	}
	for _, e := range m.GetEvents() {
		if err := f.take(e); err != nil {
			return m, err
		}
	}
	if m.GetSynced() {
		if f.synced {
			return m, errors.New("synced twice")
		}
		f.synced = true
	}
	f.cursor = m.GetCursor()
	_, number, _ := strings.Cut(f.cursor, "/")
	told, err := strconv.Atoi(number)
	if f.synced && (err != nil || f.at != 0 && told != f.at) {
		return m, fmt.Errorf("cursor %q after change %d", f.cursor, f.at)
	}
	if f.synced {
		f.at = told
	}
	return m, nil
}

// take checks that live events come one after the other.
func (f *follower) take(e *clusterstate.Event) error {
	number, _ := strconv.Atoi(e.GetItem().GetResourceVersion())
	if f.at != 0 {
		if number != f.at+1 {
			return fmt.Errorf("change %d after %d", number, f.at)
		}
		f.at = number
	}
	name := e.GetItem().GetName()
	known := f.items[name] != nil
	switch e.GetType() {
	case clusterstate.EventType_EVENT_TYPE_ADDED:
		if known {
			return fmt.Errorf("%q added twice", name)
		}
	case clusterstate.EventType_EVENT_TYPE_MODIFIED, clusterstate.EventType_EVENT_TYPE_DELETED:
		if !known {
			return fmt.Errorf("%s of %q, which is not there", e.GetType(), name)
		}
	default:
		return fmt.Errorf("event %s", e.GetType())
	}
	if e.GetType() == clusterstate.EventType_EVENT_TYPE_DELETED {
		delete(f.items, name)
	} else {
		f.items[name] = e.GetItem()
	}
	return nil
}

// until reads until a condition holds.
func (f *follower) until(holds func() bool) error {
	for !holds() {
		if _, err := f.next(); err != nil {
			return err
		}
	}
	return nil
}

// reach reads until everything has been told up to a change.
func (f *follower) reach(tb testing.TB, number int) {
	tb.Helper()
	if err := f.until(func() bool { return f.synced && f.at >= number }); err != nil {
		tb.Fatal(err)
	}
}

// same compares with what there is.
func (f *follower) same(tb testing.TB, c *cluster) {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(f.items) != len(c.objects) {
		tb.Fatalf("%d objects, want %d", len(f.items), len(c.objects))
	}
	for name, item := range c.objects {
		if got := f.items[name].GetResourceVersion(); got != item.GetResourceVersion() {
			tb.Fatalf("%s is at %q, want %q", name, got, item.GetResourceVersion())
		}
	}
}

func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	testkit.Eventually(tb, func() error {
		if !holds() {
			return errors.New(what)
		}
		return nil
	})
}

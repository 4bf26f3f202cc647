package query

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/objects"
)

// What the cache and a real API server make of it is tested in e2e/engine.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of all tests.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

var (
	pods    = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	nodes   = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
)

// fakeCache has a view for each resource and form that it was given.
type fakeCache struct {
	mu      sync.Mutex
	views   map[viewKey]*fakeView
	errs    map[viewKey]error
	tried   map[viewKey]int
	opened  map[viewKey]int
	release map[viewKey]int
	// unserved counts groups.
	unserved map[string]int
}

type viewKey struct {
	resource string
	form     objects.Form
}

func newFakeCache() *fakeCache {
	return &fakeCache{
		views: map[viewKey]*fakeView{}, errs: map[viewKey]error{}, tried: map[viewKey]int{}, opened: map[viewKey]int{}, release: map[viewKey]int{}, unserved: map[string]int{},
	}
}

func (c *fakeCache) Mapping(_ context.Context, gvr schema.GroupVersionResource) (*meta.RESTMapping, error) {
	if gvr.Resource == "nothings" {
		return nil, fmt.Errorf("%w: %s", gitops.ErrNotServed, gvr)
	}
	return &meta.RESTMapping{Resource: gvr}, nil
}

func (c *fakeCache) Unserved(group string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unserved[group]++
}

func (c *fakeCache) View(ctx context.Context, mapping *meta.RESTMapping, form objects.Form) (objects.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := viewKey{mapping.Resource.Resource, form}
	c.tried[key]++
	if err := c.errs[key]; err != nil {
		return nil, err
	}
	v, ok := c.views[key]
	if !ok {
		return nil, fmt.Errorf("there is no fake view of %v, %w", key, ctx.Err())
	}
	c.opened[key]++
	return &heldView{fakeView: v, release: func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.release[key]++
	}}, nil
}

// put makes a view.
func (c *fakeCache) put(gvr schema.GroupVersionResource, form objects.Form, v *fakeView) *fakeView {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views[viewKey{gvr.Resource, form}] = v
	return v
}

func (c *fakeCache) fail(gvr schema.GroupVersionResource, form objects.Form, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs[viewKey{gvr.Resource, form}] = err
}

// held says how many views are open.
func (c *fakeCache) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for key, opened := range c.opened {
		n += opened - c.release[key]
	}
	return n
}

type heldView struct {
	*fakeView
	release func()
}

func (v *heldView) Release() { v.release() }

// fakeView is a View whose objects a test changes.
type fakeView struct {
	fresh   objects.Freshness
	columns []objects.Column
	ended   chan struct{}

	mu      sync.Mutex
	objects map[objects.Key]*objects.Object
	epoch   string
	// log of changes, the first of which made the sequence first+1.
	log     []objects.Change
	first   uint64
	changed chan struct{}
}

func newFakeView(all ...*objects.Object) *fakeView {
	v := &fakeView{
		fresh:   objects.Freshness{ResourceVersion: "100", CurrentAt: now, Version: "v1", Kind: "Pod", Namespaced: true},
		ended:   make(chan struct{}),
		objects: map[objects.Key]*objects.Object{}, epoch: "e", first: 1000, changed: make(chan struct{}),
	}
	for _, o := range all {
		v.objects[keyOf(o)] = o
	}
	return v
}

func (v *fakeView) Freshness() objects.Freshness { return v.fresh }
func (v *fakeView) Columns() []objects.Column    { return v.columns }
func (v *fakeView) Ended() <-chan struct{}       { return v.ended }

func (v *fakeView) Get(namespace, name string) *objects.Object {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.objects[objects.Key{Namespace: namespace, Name: name}]
}

func (v *fakeView) List(namespace string) ([]*objects.Object, objects.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*objects.Object
	for key, o := range v.objects {
		if namespace == "" || key.Namespace == namespace {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *objects.Object) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all, v.position()
}

func (v *fakeView) position() objects.Position {
	return objects.Position{Epoch: v.epoch, Sequence: v.first + uint64(len(v.log))}
}

func (v *fakeView) Since(p objects.Position) ([]objects.Change, objects.Position, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := v.position()
	if p.Epoch != v.epoch || p.Sequence < v.first || p.Sequence > at.Sequence {
		return nil, objects.Position{}, false
	}
	return slices.Clone(v.log[p.Sequence-v.first:]), at, true
}

func (v *fakeView) Changed(p objects.Position) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p != v.position() {
		past := make(chan struct{})
		close(past)
		return past
	}
	return v.changed
}

// set makes or changes an object.
func (v *fakeView) set(o *objects.Object) { v.change(keyOf(o), o) }

// remove deletes an object.
func (v *fakeView) remove(namespace, name string) {
	v.change(objects.Key{Namespace: namespace, Name: name}, nil)
}

func (v *fakeView) change(key objects.Key, o *objects.Object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o == nil && v.objects[key] == nil {
		return
	}
	v.log = append(v.log, objects.Change{Before: v.objects[key], After: o})
	if o == nil {
		delete(v.objects, key)
	} else {
		v.objects[key] = o
	}
	close(v.changed)
	v.changed = make(chan struct{})
}

// forget forgets all changes but the last n.
func (v *fakeView) forget(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	drop := len(v.log) - n
	v.log, v.first = v.log[drop:], v.first+uint64(drop)
}

// object makes one. more is of its JSON, beside metadata.
func object(namespace, name, resourceVersion string, set labels.Set, more map[string]any) *objects.Object {
	whole := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{
		"namespace": namespace, "name": name, "resourceVersion": resourceVersion, "uid": "uid-" + name,
	}}
	for k, v := range more {
		whole[k] = v
	}
	data, err := json.Marshal(whole)
	if err != nil {
		panic(err)
	}
	return &objects.Object{
		Namespace: namespace, Name: name, UID: "uid-" + name, ResourceVersion: resourceVersion,
		Created: now.Add(-5 * time.Hour), Labels: set, JSON: data,
	}
}

func phase(p string) map[string]any { return map[string]any{"status": map[string]any{"phase": p}} }

// row of a table with the columns tableColumns.
func row(namespace, name, resourceVersion string, set labels.Set, cells ...string) *objects.Object {
	o := object(namespace, name, resourceVersion, set, nil)
	o.JSON, o.Cells = nil, append(append([]string{name}, cells...), "")
	return o
}

func tableColumns() []objects.Column {
	return []objects.Column{
		{Name: "Name", Type: "string", Format: "name", Description: "what it is called"},
		{Name: "Status", Type: "string", Priority: 1},
		{Name: "Age", Type: "string", Age: true},
	}
}

func table(all ...*objects.Object) *fakeView {
	v := newFakeView(all...)
	v.columns = tableColumns()
	return v
}

func newServer(tb testing.TB, c *fakeCache, change func(*Config)) *Server {
	tb.Helper()
	cfg := Config{Registerer: prometheus.NewRegistry(), Clock: testclock.NewFakePassiveClock(now)}
	if change != nil {
		change(&cfg)
	}
	s, err := NewServer(cfg, c, c)
	require.NoError(tb, err)
	return s
}

// stream is the server's end of an RPC whose messages a test takes one by one: until it
// does, the server waits.
type stream[T any, M interface{ *T }] struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan M
}

func (s *stream[T, M]) Context() context.Context { return s.ctx }

func (s *stream[T, M]) Send(m M) error { return s.SendMsg(m) }

func (s *stream[T, M]) SendMsg(m any) error {
	data, err := grpctool.Marshal(m)
	if err != nil {
		return err
	}
	message := M(new(T))
	if err := grpctool.Unmarshal(data, message); err != nil {
		return err
	}
	select {
	case s.sent <- message:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err() // as gRPC has it
	}
}

func registry() *prometheus.Registry { return prometheus.NewRegistry() }

// fixedView lists what is in order already, as the cache does.
type fixedView struct {
	*fakeView
	all []*objects.Object
}

func (v *fixedView) List(string) ([]*objects.Object, objects.Position) {
	return slices.Clone(v.all), objects.Position{Epoch: "e"}
}

func (v *fixedView) Release() {}

type fixedCache struct {
	*fakeCache
	views map[objects.Form]objects.View
}

func (c fixedCache) View(_ context.Context, _ *meta.RESTMapping, form objects.Form) (objects.View, error) {
	return c.views[form], nil
}

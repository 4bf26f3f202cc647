package gitops_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

const owner = "1-2"

var (
	errRefused = errors.New("refused by an admission webhook")
	errAbsent  = &gitops.KindError{Kind: gitops.ErrNotFound, Err: errors.New("not found")}
)

// world is what outlives a process: objects and stored inventories.
type world struct {
	mu      sync.Mutex
	objects map[inventory.ID]gitops.Live
	// shards of inventories by name.
	shards map[string]inventory.Shard
	// inventories that the shards are of, by name.
	inventories map[string]string
	version     int
	// kinds that are served, true: namespaced.
	kinds map[schema.GroupKind]bool
	// refused names are refused by the API server.
	refused map[string]bool
	// contenders for the fields of objects, by their names.
	contenders map[string][]gitops.Contender
	// lingering kinds keep their objects, marked as being deleted.
	lingering map[string]bool
	// occupants of namespaces and CRDs, and why they cannot be told, by name.
	occupants  map[string][]inventory.ID
	unknowable map[string]error
	listeners  map[int]func(inventory.ID)
}

func newWorld() *world {
	return &world{
		objects: map[inventory.ID]gitops.Live{}, shards: map[string]inventory.Shard{}, inventories: map[string]string{},
		refused: map[string]bool{}, lingering: map[string]bool{},
		occupants: map[string][]inventory.ID{}, unknowable: map[string]error{}, listeners: map[int]func(inventory.ID){},
		kinds: map[schema.GroupKind]bool{
			{Kind: "ConfigMap"}: true, {Kind: "Secret"}: true, {Kind: "Namespace"}: false,
			{Group: "apps", Kind: "Deployment"}:                               true,
			{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: false,
		},
	}
}

// fakeCluster is a process's view of a world. fault is asked before each call takes
// effect and after, and an error from it is the call's.
type fakeCluster struct {
	*world
	fault func(call string) error
	calls []string
	// hidden objects exist, and Live does not know them yet.
	hidden map[inventory.ID]gitops.Live
	// removes as they were asked for.
	removes []gitops.Remove
	// salt makes the trace that an apply leaves another one.
	salt []byte
	// yielded fields of the last apply of each name.
	yielded map[string][]string
	// inv as this process remembers it.
	inv *inventory.Inventory
}

var _ gitops.Cluster = (*fakeCluster)(nil)

func (w *world) process() *fakeCluster {
	return &fakeCluster{world: w, fault: func(string) error { return nil }}
}

// around calls do between two questions for a fault.
func (f *fakeCluster) around(call string, do func() error) error {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	f.mu.Unlock()
	if err := f.fault("before " + call); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return f.fault("after " + call)
}

func (f *fakeCluster) Load(ctx context.Context, id string) (*inventory.Inventory, error) {
	if f.inv != nil {
		return f.inv, nil
	}
	err := f.around("load", func() (err error) {
		f.inv, err = inventory.Load(ctx, f.world, id)
		return err
	})
	if err != nil {
		f.inv = nil
	}
	return f.inv, err
}

func (f *fakeCluster) Save(ctx context.Context, inv *inventory.Inventory) error {
	err := f.around("save", func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return inv.Save(ctx, f.world)
	})
	if err != nil {
		f.inv = nil
	}
	return err
}

// List and Put make the world an inventory.Storage.
func (w *world) List(_ context.Context, id string) ([]inventory.Shard, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []inventory.Shard
	for _, s := range w.shards {
		if w.inventories[s.Name] != id {
			continue
		}
		s.Data = maps.Clone(s.Data)
		out = append(out, s)
	}
	return out, nil
}

func (w *world) Put(_ context.Context, id string, s inventory.Shard) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shards[s.Name].ResourceVersion != s.ResourceVersion {
		return "", inventory.ErrConflict
	}
	w.version++
	s.ResourceVersion, s.Data = strconv.Itoa(w.version), maps.Clone(s.Data)
	w.shards[s.Name], w.inventories[s.Name] = s, id
	return s.ResourceVersion, nil
}

func (f *fakeCluster) Resolve(_ context.Context, kinds []schema.GroupVersionKind) (map[schema.GroupVersionKind]gitops.Kind, error) {
	out := map[schema.GroupVersionKind]gitops.Kind{}
	err := f.around("resolve", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, gvk := range kinds {
			namespaced, served := f.kinds[gvk.GroupKind()]
			if served && (gvk.Version == "" || gvk.Version == "v1") {
				out[gvk] = gitops.Kind{Namespaced: namespaced}
			} else {
				out[gvk] = gitops.Kind{Err: fmt.Errorf("%w: %s", gitops.ErrNotServed, gvk)}
			}
		}
		return nil
	})
	return out, err
}

func (w *world) Live(id inventory.ID) (gitops.Live, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	live, ok := w.objects[id]
	return live, ok
}

func (w *world) Notify(_ []schema.GroupKind, changed func(inventory.ID)) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.listeners)
	w.listeners[n] = changed
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.listeners[n] = func(inventory.ID) {}
	}
}

func (f *fakeCluster) Read(_ context.Context, id inventory.ID, _ string) (*unstructured.Unstructured, error) {
	var u *unstructured.Unstructured
	err := f.around("read "+id.Name, func() error {
		live, ok := f.Live(id)
		if hidden, ok := f.hidden[id]; ok {
			u = hidden.Object.Unstructured()
			return nil
		}
		if !ok {
			return errAbsent
		}
		u = live.Object.Unstructured()
		u.SetUID(live.UID)
		u.SetResourceVersion(live.ResourceVersion)
		return nil
	})
	return u, err
}

func (f *fakeCluster) Apply(ctx context.Context, a gitops.Apply) (gitops.Live, error) {
	var live gitops.Live
	err := f.around("apply "+a.ID.Name, func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.mu.Lock()
		if f.yielded == nil {
			f.yielded = map[string][]string{}
		}
		f.yielded[a.ID.Name] = a.Yield
		refused := f.refused[a.ID.Name]
		f.mu.Unlock()
		if refused {
			return errRefused
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(a.JSON); err != nil {
			return err
		}
		live = f.put(u, inventory.Short(sha256.Sum256(slices.Concat(a.JSON, f.salt))), a.DryRun)
		return nil
	})
	return live, err
}

// Contenders are those that the test named.
func (f *fakeCluster) Contenders(_ context.Context, id inventory.ID, _ []byte) (others []gitops.Contender, err error) {
	err = f.around("contenders "+id.Name, func() error {
		others = f.contenders[id.Name]
		return nil
	})
	return others, err
}

// snapshot of what a test made.
func snapshot(u *unstructured.Unstructured) *gitops.Snapshot {
	s, err := gitops.NewSnapshot(u)
	if err != nil {
		panic(err)
	}
	return s
}

// put changes an object as if by an apply, and serves what a CRD defines.
func (w *world) put(u *unstructured.Unstructured, ownership inventory.Hash, dry bool) gitops.Live {
	id := inventory.IDOf(u)
	w.mu.Lock()
	live := w.objects[id]
	live.Object, live.Ownership, live.Owner = snapshot(u), ownership, u.GetAnnotations()[gitops.OwnerAnnotation]
	live.Stays = gitops.MarkedToStay(func(key string) string { return u.GetAnnotations()[key] })
	w.version++
	live.ResourceVersion = strconv.Itoa(w.version)
	if live.UID == "" {
		live.UID = types.UID("uid-" + live.ResourceVersion)
	}
	if dry {
		w.mu.Unlock()
		return live
	}
	w.objects[id] = live
	if gk := strings.SplitN(id.Name, ".", 2); id.GroupKind.Kind == "CustomResourceDefinition" {
		w.kinds[schema.GroupKind{Group: gk[1], Kind: strings.ToUpper(gk[0][:1]) + gk[0][1:len(gk[0])-1]}] = true
	}
	w.mu.Unlock()
	w.changed(id)
	return live
}

func (w *world) changed(id inventory.ID) {
	w.mu.Lock()
	listeners := maps.Clone(w.listeners)
	w.mu.Unlock()
	for _, l := range listeners {
		l(id)
	}
}

func (f *fakeCluster) Remove(_ context.Context, r gitops.Remove) error {
	return f.around("remove "+r.ID.Name, func() error {
		if f.refused[r.ID.Name] {
			return errRefused
		}
		f.mu.Lock()
		f.removes = append(f.removes, r)
		live, ok := f.objects[r.ID]
		switch {
		case !ok || live.UID != r.UID || r.DryRun:
		case live.ResourceVersion != r.ResourceVersion && live.Owner != r.Owner:
			f.mu.Unlock()
			return gitops.ErrTakenOver
		case r.Detach:
			live.Owner = ""
			f.objects[r.ID] = live
		case f.lingering[r.ID.Name]:
			u := live.Object.Unstructured()
			now := metav1.Now()
			u.SetDeletionTimestamp(&now)
			u.SetFinalizers([]string{"example.com/hold"})
			live.Object = snapshot(u)
			f.objects[r.ID] = live
		default:
			delete(f.objects, r.ID)
		}
		f.mu.Unlock()
		f.changed(r.ID)
		return nil
	})
}

func (f *fakeCluster) Occupants(_ context.Context, id inventory.ID, ours func(inventory.ID) bool) ([]inventory.ID, bool, error) {
	var ids []inventory.ID
	err := f.around("occupants "+id.Name, func() error {
		for _, o := range f.occupants[id.Name] {
			if _, exists := f.Live(o); exists && !ours(o) {
				ids = append(ids, o)
			}
		}
		return f.unknowable[id.Name]
	})
	return ids, false, err
}

// remove takes an object away behind the engine's back.
func (w *world) remove(id inventory.ID) {
	w.mu.Lock()
	delete(w.objects, id)
	w.mu.Unlock()
	w.changed(id)
}

// names of the objects that exist.
func (w *world) names() map[string]bool {
	out := map[string]bool{}
	for id := range w.objects {
		out[id.Name] = true
	}
	return out
}

// recorded names of the stored inventory.
func (w *world) recorded(t *testing.T) map[string]bool {
	t.Helper()
	inv, err := inventory.Load(t.Context(), w, owner)
	require.NoError(t, err)
	out := map[string]bool{}
	for id := range inv.All() {
		out[id.Name] = true
	}
	return out
}

// observer keeps what it is told.
type observer struct {
	mu      sync.Mutex
	newest  map[string]gitops.ObjectStatus
	removed []string
}

func newObserver() *observer { return &observer{newest: map[string]gitops.ObjectStatus{}} }

func (o *observer) Object(s gitops.ObjectStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newest[s.ID.Name] = s
}

func (o *observer) Removed(id inventory.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.removed = append(o.removed, id.Name)
}

func (o *observer) get(name string) gitops.ObjectStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.newest[name]
}

// set makes a complete object set of YAML documents.
func set(tb testing.TB, docs ...string) gitops.Desired {
	tb.Helper()
	d := gitops.Desired{Commit: "c0ffee", Set: manifests.Set{Complete: true}}
	for i, doc := range docs {
		var content map[string]any
		require.NoError(tb, yaml.Unmarshal([]byte(doc), &content))
		data, err := json.Marshal(content)
		require.NoError(tb, err)
		d.Set.Objects = append(d.Set.Objects, manifests.Object{
			ID:   inventory.IDOf(&unstructured.Unstructured{Object: content}),
			JSON: data, Digest: sha256.Sum256(data),
			Position: manifests.Position{Path: fmt.Sprintf("f%d.yaml", i), Line: 1},
		})
	}
	return d
}

func cm(name, value string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {k: %q}}`, name, value)
}

// after is a ConfigMap that depends on others of namespace default.
func after(name string, needs ...string) string {
	refs := make([]string, len(needs))
	for i, need := range needs {
		refs[i] = "/namespaces/default/ConfigMap/" + need
	}
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, annotations: {config.kubernetes.io/depends-on: %q}}}`,
		name, strings.Join(refs, ","))
}

func cmID(name string) inventory.ID {
	return inventory.ID{GroupKind: schema.GroupKind{Kind: "ConfigMap"}, Namespace: "default", Name: name}
}

func project() gitops.Project {
	return gitops.Project{Key: owner, Agent: "1", Name: "group/app", Prune: true, Propagation: "Background", Parallel: 1}
}

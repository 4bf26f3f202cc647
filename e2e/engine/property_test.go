package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

const (
	valueKey = "example.com/value"
	keepKey  = "cli-utils.sigs.k8s.io/on-remove"

	// seedEnv names the variable that has one seed tried, and stepsEnv one that says
	// how many steps: a failure prints both. seedsEnv is how many new seeds are tried.
	seedEnv  = "ENGINE_PROPERTY_SEED"
	stepsEnv = "ENGINE_PROPERTY_STEPS"
	seedsEnv = "ENGINE_PROPERTY_SEEDS"
	// propertySteps of a history, propertySeeds that are always tried, and
	// propertyFresh new ones each time.
	propertySteps = 60
	propertySeeds = 2
	propertyFresh = 1
)

// TestProperty_EngineDoesWhatTheModelDoes lets random histories of two projects and of
// strangers happen to a real cluster and to the model, and compares after each step.
func TestProperty_EngineDoesWhatTheModelDoes(t *testing.T) {
	steps := fromEnv(t, stepsEnv, propertySteps)
	var seeds []uint64
	for range fromEnv(t, seedsEnv, propertyFresh) {
		seeds = append(seeds, rand.Uint64())
	}
	for seed := range uint64(propertySeeds) {
		seeds = append(seeds, seed+1)
	}
	if text := os.Getenv(seedEnv); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(t, seed)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s=%d %s=%d; the history is:\n%s", seedEnv, seed, stepsEnv, len(h.said), strings.Join(h.said, "\n"))
				}
			})
			for range steps {
				h.step()
				h.compare()
			}
			t.Logf("%v", h.did)
		})
	}
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// history is what happens to one world.
type history struct {
	*agent
	t     *testing.T
	rand  *rand.Rand
	world *world
	// ids of all objects there may be.
	ids   []inventory.ID
	value int
	// said is the history for people, and did counts what was done.
	said []string
	did  map[string]int
	// uids by the lives of the model.
	uids map[int]types.UID
	dead *fuse
}

func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	h := &history{
		agent: newAgent(t), t: t, rand: rand.New(rand.NewPCG(seed, seed)),
		world: &world{objects: map[inventory.ID]modelObject{}}, did: map[string]int{}, uids: map[int]types.UID{},
	}
	second := h.namespace + "-b"
	_, err := h.client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: second}}, metav1.CreateOptions{})
	require.NoError(t, err)
	for i := range 3 {
		for _, ns := range []string{h.namespace, second} {
			for _, kind := range []string{"ConfigMap", "Secret"} {
				h.ids = append(h.ids, inventory.ID{GroupKind: schema.GroupKind{Kind: kind}, Namespace: ns, Name: fmt.Sprintf("o%d", i)})
			}
		}
		h.ids = append(h.ids, inventory.ID{
			GroupKind: schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}, Name: fmt.Sprintf("%s-%d", h.namespace, i),
		})
	}
	for _, suffix := range []string{"-p", "-q"} {
		h.world.projects = append(h.world.projects, &modelProject{
			key: h.project.Key + suffix, prune: true, policy: inventory.PolicyMustMatch,
			repo: map[inventory.ID]manifest{}, broken: map[int]bool{}, recorded: map[inventory.ID]bool{},
		})
	}
	h.stop()
	h.begin()
	return h
}

// begin starts a process that can be made to crash.
func (h *history) begin() {
	h.t.Helper()
	h.dead = &fuse{}
	rc := rest.CopyConfig(server)
	rc.Wrap(h.dead.wrap)
	h.start(rc)
}

// step does something at random.
func (h *history) step() {
	p := h.world.projects[h.rand.IntN(len(h.world.projects))]
	id := h.ids[h.rand.IntN(len(h.ids))]
	switch n := h.rand.IntN(100); {
	case n < 45:
		h.edit(p)
		h.commit(p)
	case n < 52:
		h.move(id)
	case n < 57:
		h.policy(p)
		h.commit(p)
	case n < 60:
		h.did["restart"]++
		h.say("agentk restarts")
		h.stop()
		h.begin()
		h.commit(p)
	case n < 63:
		h.removeHeld(p)
	case n < 66:
		h.say("the project is synced again, without a commit: %s", p.key)
		h.run(p, 0)
	default:
		h.stranger(id)
	}
}

// say notes what is done.
func (h *history) say(format string, args ...any) {
	h.said = append(h.said, fmt.Sprintf("%3d: ", len(h.said))+fmt.Sprintf(format, args...))
}

func (h *history) newValue() string {
	h.value++
	return strconv.Itoa(h.value)
}

// edit changes some of a repository.
func (h *history) edit(p *modelProject) {
	if h.rand.IntN(25) == 0 {
		h.did["empty commit"]++
		h.say("%s: everything is removed", p.key)
		clear(p.repo)
		clear(p.broken)
		return
	}
	for range 1 + h.rand.IntN(6) {
		id := h.ids[h.rand.IntN(len(h.ids))]
		m, there := p.repo[id]
		file := h.rand.IntN(3)
		switch what := h.rand.IntN(12); {
		case what == 0:
			h.did["break"]++
			h.say("%s: file %d is broken", p.key, file)
			p.broken[file] = true
		case what < 4:
			h.did["fix"]++
			h.say("%s: file %d is well", p.key, file)
			delete(p.broken, file)
		case there && what < 7:
			h.did["remove"]++
			h.say("%s: %s is removed", p.key, id)
			delete(p.repo, id)
		case there && what == 7:
			h.did["move to another file"]++
			h.say("%s: %s moves to file %d", p.key, id, file)
			m.file = file
			p.repo[id] = m
		default:
			h.did["create or change"]++
			m = manifest{value: h.newValue(), keep: h.rand.IntN(5) == 0, file: file}
			h.say("%s: %s is written: %+v", p.key, id, m)
			p.repo[id] = m
		}
	}
}

// move takes an object from one repository to the other, which is seen in any order.
func (h *history) move(id inventory.ID) {
	from, to := h.world.projects[0], h.world.projects[1]
	if _, there := from.repo[id]; !there || h.rand.IntN(2) == 0 {
		from, to = to, from
	}
	m, there := from.repo[id]
	if !there {
		return
	}
	h.did["move to another project"]++
	h.say("%s moves from %s to %s", id, from.key, to.key)
	delete(from.repo, id)
	to.repo[id] = m
	first, second := from, to
	if h.rand.IntN(2) == 0 {
		first, second = second, first
	}
	if h.rand.IntN(2) == 0 {
		first.push()
		second.push()
	}
	h.commit(first)
	h.commit(second)
	h.commit(first)
}

// removeHeld removes an object whose deletion a stranger holds up.
func (h *history) removeHeld(p *modelProject) {
	for _, id := range sortedIDs(p.repo) {
		if o := h.world.objects[id]; o.owner == p.key && !o.held && !o.dying && !o.keep && len(p.repo) > 1 {
			h.hold(id)
			h.say("%s: all files are well, and prune is on", p.key)
			clear(p.broken)
			p.prune = true
			h.did["remove what is held"]++
			h.say("%s: %s is removed", p.key, id)
			delete(p.repo, id)
			h.commit(p)
			return
		}
	}
}

// hold puts a finalizer on an object.
func (h *history) hold(id inventory.ID) {
	h.t.Helper()
	h.did["stranger holds"]++
	h.say("a stranger puts a finalizer on %s", id)
	_, err := h.cluster.Resolve(h.t.Context(), []schema.GroupVersionKind{id.GroupKind.WithVersion("")})
	require.NoError(h.t, err)
	h.patch(id, `{"metadata":{"finalizers":["example.com/hold"]}}`)
	o := h.world.objects[id]
	o.held = true
	h.world.objects[id] = o
}

// patch changes an object in a stranger's name.
func (h *history) patch(id inventory.ID, body string, args ...any) {
	h.t.Helper()
	u, err := h.resource(id).Patch(h.t.Context(), id.Name, types.MergePatchType, fmt.Appendf(nil, body, args...),
		metav1.PatchOptions{FieldManager: "stranger"})
	require.NoError(h.t, err)
	if u.GetDeletionTimestamp() != nil && len(u.GetFinalizers()) == 0 {
		u = nil // that was the last thing that held it
	}
	h.awaitSeen(id, u)
}

func (h *history) policy(p *modelProject) {
	policies := []inventory.Policy{
		inventory.PolicyMustMatch, inventory.PolicyMustMatch, inventory.PolicyAdoptIfNoInventory, inventory.PolicyAdoptAll,
	}
	p.policy, p.prune = policies[h.rand.IntN(len(policies))], h.rand.IntN(4) > 0
	h.did["policy"]++
	h.say("%s: policy is %d, prune is %v", p.key, p.policy, p.prune)
}

// commit pushes what is in the repository and has it synced, by a process that may
// crash first.
func (h *history) commit(p *modelProject) {
	p.push()
	if h.rand.IntN(4) == 0 {
		h.run(p, 1+h.rand.IntN(8))
	} else {
		h.run(p, 0)
	}
}

// run syncs a project. Unless zero, the process dies at that write, which is sent or
// not, and another one syncs again.
func (h *history) run(p *modelProject, crashAt int) {
	h.t.Helper()
	if p.received == nil {
		p.push()
	}
	project := h.project
	project.Key, project.Policy, project.Prune, project.Others = p.key, p.policy, p.prune, others{w: h.world, p: p}
	d := desired(h.t, p.received.documents()...)
	d.Commit = strconv.Itoa(len(h.said))
	d.Set.Complete = p.received.complete
	if !d.Set.Complete {
		d.Set.Errors = p.fileErrors()
	}
	if crashAt > 0 {
		h.did["crash"]++
		h.say("agentk is to crash at write %d", crashAt)
		h.dead.arm(crashAt, h.rand.IntN(2) == 0)
		// Whatever it comes to, and whether it gets as far.
		_, _ = gitops.Run(h.t.Context(), h.cluster, project, d, newLog())
		h.stop()
		recorded := h.stored(p)
		for id, u := range h.live() {
			if u.GetAnnotations()[gitops.OwnerAnnotation] == p.key {
				require.Contains(h.t, recorded, id.String(), "it exists because of us, and the inventory does not know")
			}
		}
		h.begin()
	}
	before := h.live()
	model := maps.Clone(h.world.objects)
	h.say("%s is synced: %d objects, complete is %v", p.key, len(d.Set.Objects), d.Set.Complete)
	l := newLog()
	_, err := gitops.Run(h.t.Context(), h.cluster, project, d, l)
	require.NoError(h.t, err)
	h.world.sync(p)
	if crashAt > 0 {
		return // who knows what it did before
	}
	for id, now := range h.live() {
		if then, was := before[id]; was && model[id] == h.world.objects[id] {
			require.Equal(h.t, then.GetResourceVersion(), now.GetResourceVersion(), "%s was touched without need", id)
		}
	}
}

// stranger does something to an object that is not in any repository's name.
func (h *history) stranger(id inventory.ID) {
	o, exists := h.world.objects[id]
	_, err := h.cluster.Resolve(h.t.Context(), []schema.GroupVersionKind{id.GroupKind.WithVersion("")})
	require.NoError(h.t, err)
	switch what := h.rand.IntN(7); {
	case !exists:
		h.did["stranger creates"]++
		o = modelObject{value: h.newValue()}
		if what == 0 {
			o.owner = foreignKey
		}
		h.say("a stranger creates %s: %+v", id, o)
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetGroupVersionKind(schema.GroupVersionKind{Group: id.GroupKind.Group, Version: "v1", Kind: id.GroupKind.Kind})
		u.SetName(id.Name)
		annotations := map[string]string{valueKey: o.value}
		if o.owner != "" {
			annotations[gitops.OwnerAnnotation] = o.owner
		}
		u.SetAnnotations(annotations)
		u, err = h.resource(id).Create(h.t.Context(), u, metav1.CreateOptions{FieldManager: "stranger"})
		require.NoError(h.t, err)
		h.world.create(id, o)
		h.awaitSeen(id, u)
		return
	case what == 0:
		h.did["stranger deletes"]++
		h.say("a stranger deletes %s", id)
		require.NoError(h.t, h.resource(id).Delete(h.t.Context(), id.Name, metav1.DeleteOptions{}))
		h.world.remove(id)
		h.awaitSeen(id, h.live()[id])
		return
	case what == 6 && !o.held && !o.dying:
		h.hold(id)
		return
	case what > 3 && o.held:
		h.did["stranger lets go"]++
		h.say("a stranger takes the finalizer off %s", id)
		o.held = false
		h.patch(id, `{"metadata":{"finalizers":null}}`)
		if o.dying {
			delete(h.world.objects, id)
			return
		}
	case what == 1:
		h.did["stranger takes the mark away"]++
		o.owner = ""
		h.say("a stranger takes the mark off %s", id)
		h.patch(id, `{"metadata":{"annotations":{%q:null}}}`, gitops.OwnerAnnotation)
	case what == 2:
		h.did["stranger takes over"]++
		o.owner = foreignKey
		h.say("a stranger takes %s over", id)
		h.patch(id, `{"metadata":{"annotations":{%q:%q}}}`, gitops.OwnerAnnotation, foreignKey)
	case what == 3:
		h.did["stranger labels"]++
		o.label = h.newValue()
		h.say("a stranger labels %s", id)
		h.patch(id, `{"metadata":{"labels":{"example.com/label":%q}}}`, o.label)
	default:
		h.did["stranger edits"]++
		o.value, o.ours = h.newValue(), false
		h.say("a stranger edits %s: %s", id, o.value)
		h.patch(id, `{"metadata":{"annotations":{%q:%q}}}`, valueKey, o.value)
	}
	h.world.objects[id] = o
}

// awaitSeen waits until the engine's cache shows what a stranger did: how soon it
// does is not what is tested here.
func (h *history) awaitSeen(id inventory.ID, u *unstructured.Unstructured) {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		live, exists := h.cluster.Live(id)
		if exists != (u != nil) || exists && live.ResourceVersion != u.GetResourceVersion() {
			return errNotSo
		}
		return nil
	})
}

// compare compares the cluster with the model.
func (h *history) compare() {
	h.t.Helper()
	live := h.live()
	for _, id := range h.ids {
		want, exists := h.world.objects[id]
		u, found := live[id]
		require.Equal(h.t, exists, found, "%s: does it exist?", id)
		if !exists {
			continue
		}
		annotations := u.GetAnnotations()
		got := modelObject{
			owner: annotations[gitops.OwnerAnnotation], value: annotations[valueKey], label: u.GetLabels()["example.com/label"],
			keep: annotations[keepKey] == "keep", held: len(u.GetFinalizers()) > 0, dying: u.GetDeletionTimestamp() != nil,
			applied: want.applied, ours: want.ours, life: want.life,
		}
		require.Equal(h.t, want, got, "%s", id)
		if uid, known := h.uids[want.life]; known {
			require.Equal(h.t, uid, u.GetUID(), "%s was made anew", id)
		}
		h.uids[want.life] = u.GetUID()
	}
	for _, p := range h.world.projects {
		var want []string
		for id := range p.recorded {
			want = append(want, id.String())
		}
		slices.Sort(want)
		require.Equal(h.t, want, h.stored(p), "inventory of %s", p.key)
	}
}

// stored is the inventory of a project as it is stored.
func (h *history) stored(p *modelProject) []string {
	h.t.Helper()
	stored := *h.agent
	stored.project.Key = p.key
	keys := stored.inventory()
	slices.Sort(keys)
	return keys
}

// live lists the world's objects as they are in the cluster.
func (h *history) live() map[inventory.ID]*unstructured.Unstructured {
	h.t.Helper()
	all := map[inventory.ID]*unstructured.Unstructured{}
	asked := map[string]bool{}
	for _, id := range h.ids {
		key := id.GroupKind.Kind + id.Namespace
		if asked[key] {
			continue
		}
		asked[key] = true
		list, err := h.resource(id).List(h.t.Context(), metav1.ListOptions{})
		require.NoError(h.t, err)
		for i := range list.Items {
			found := inventory.ID{GroupKind: id.GroupKind, Namespace: list.Items[i].GetNamespace(), Name: list.Items[i].GetName()}
			if slices.Contains(h.ids, found) {
				all[found] = &list.Items[i]
			}
		}
	}
	return all
}

func (h *history) resource(id inventory.ID) dynamic.ResourceInterface {
	gvr := schema.GroupVersionResource{Group: id.GroupKind.Group, Version: "v1", Resource: strings.ToLower(id.GroupKind.Kind) + "s"}
	return h.dynamic.Resource(gvr).Namespace(id.Namespace)
}

// fuse cuts a process off from its API server, for good, at a write.
type fuse struct {
	armed atomic.Bool
	left  atomic.Int64
	// sent: the last write gets through, and its answer does not.
	sent bool
}

var errCrashed = errors.New("this process has crashed")

func (f *fuse) arm(writes int, sent bool) {
	f.sent = sent
	f.left.Store(int64(writes))
	f.armed.Store(true)
}

func (f *fuse) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if !f.armed.Load() {
			return next.RoundTrip(r)
		}
		left := f.left.Load()
		if r.Method != http.MethodGet {
			left = f.left.Add(-1) + 1
		}
		switch {
		case left <= 0 || left == 1 && r.Method != http.MethodGet && !f.sent:
			return nil, errCrashed
		case left == 1 && r.Method != http.MethodGet:
			resp, err := next.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
			if err == nil {
				_ = resp.Body.Close()
			}
			return nil, errCrashed
		}
		return next.RoundTrip(r)
	})
}

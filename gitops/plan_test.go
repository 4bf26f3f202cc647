package gitops_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
	"github.com/kas-agentk/kas/manifests"
)

// scene is the state of a cluster, for Plan.
type scene struct {
	inv   *inventory.Inventory
	live  map[inventory.ID]gitops.Live
	kinds map[schema.GroupVersionKind]gitops.Kind
}

func newScene() *scene {
	s := &scene{inv: inventory.New(owner), live: map[inventory.ID]gitops.Live{}, kinds: map[schema.GroupVersionKind]gitops.Kind{}}
	for kind, namespaced := range map[schema.GroupKind]bool{
		{Kind: "ConfigMap"}: true, {Kind: "ServiceAccount"}: true, {Kind: "Namespace"}: false,
		{Group: "apps", Kind: "Deployment"}: true, {Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}: false,
		{Group: "example.com", Kind: "Zebra"}: true, {Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: false,
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}: false,
	} {
		s.kinds[kind.WithVersion("v1")] = gitops.Kind{Namespaced: namespaced}
		s.kinds[kind.WithVersion("")] = gitops.Kind{Namespaced: namespaced}
	}
	return s
}

// has puts an object there, owned by that inventory, and on ours if it is ours.
func (s *scene) has(id inventory.ID, by string, annotations ...string) *scene {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(id.GroupKind.WithVersion("v1"))
	u.SetName(id.Name)
	marks := map[string]string{}
	for _, a := range annotations {
		key, value, _ := strings.Cut(a, "=")
		marks[key] = value
	}
	u.SetAnnotations(marks)
	s.live[id] = gitops.Live{UID: types.UID("uid-" + id.Name), ResourceVersion: "1", Owner: by, Ownership: inventory.Hash{1}, Object: snapshot(u)}
	if by == owner {
		s.inv.Set(id, inventory.Entry{Digest: inventory.Hash{1}, Ownership: inventory.Hash{1}})
	}
	return s
}

// holds is has for an object of the set that was applied as it is.
func (s *scene) holds(d gitops.Desired, i int, id inventory.ID) *scene {
	s.has(id, owner)
	s.inv.Set(id, inventory.Entry{Digest: inventory.Short(d.Set.Objects[i].Digest), Ownership: inventory.Hash{1}})
	return s
}

func (s *scene) plan(p gitops.Project, d gitops.Desired) gitops.Steps {
	return gitops.Plan(p, d, gitops.State{Inventory: s.inv, Kinds: s.kinds, Live: func(id inventory.ID) (gitops.Live, bool) {
		live, ok := s.live[id]
		return live, ok
	}})
}

// show writes steps as text: a line for each verdict and each wave.
func show(s gitops.Steps) string {
	var b strings.Builder
	line := func(what string, steps []gitops.Step) {
		b.WriteString(what + ":")
		for _, step := range steps {
			b.WriteString(" " + step.Status.ID.Name)
			if step.Detach {
				b.WriteString("(detach)")
			}
		}
		b.WriteString("\n")
	}
	actions := map[gitops.Action]string{
		gitops.ActionUnchanged: "unchanged", gitops.ActionFailed: "failed",
		gitops.ActionSkipped: "skipped", gitops.ActionPruning: "pruning",
	}
	for _, v := range s.Verdicts {
		fmt.Fprintf(&b, "%s %s: %s\n", actions[v.Status.Action], v.Status.ID.Name, v.Status.Message)
	}
	if len(s.Definitions) > 0 {
		line("define", s.Definitions)
	}
	for _, w := range s.Waves {
		line("apply", w)
	}
	for _, w := range s.Prune {
		line("prune", w)
	}
	for _, id := range s.Gone {
		b.WriteString("gone " + id.Name + "\n")
	}
	if s.HeldBack != "" {
		b.WriteString("held back: " + s.HeldBack + "\n")
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	must := project()
	adopt := project()
	adopt.Policy = inventory.PolicyAdoptIfNoInventory
	all := project()
	all.Policy = inventory.PolicyAdoptAll
	keep := project()
	keep.Prune = false
	empty := project()
	empty.AllowEmpty = true
	one := set(t, cm("a", "1"))
	broken := set(t, cm("a", "1"))
	broken.Set.Complete = false
	kind := func(apiVersion, kind, name string) string {
		return fmt.Sprintf(`{apiVersion: %s, kind: %s, metadata: {name: %s}}`, apiVersion, kind, name)
	}
	nsID := inventory.ID{GroupKind: schema.GroupKind{Kind: "Namespace"}, Name: "ns"}
	goneKind := inventory.ID{GroupKind: schema.GroupKind{Group: "gone.example.com", Kind: "X"}, Name: "x"}

	for _, row := range []struct {
		name    string
		project gitops.Project
		desired gitops.Desired
		scene   *scene
		want    string
	}{
		{"a new object is applied", must, one, newScene(), "apply: a\n"},
		{
			"an object that is as it was applied is left alone", must, one,
			newScene().holds(one, 0, cmID("a")), "unchanged a: \n",
		},
		{
			"an object whose manifest has changed is applied", must, set(t, cm("a", "2")),
			newScene().holds(one, 0, cmID("a")), "apply: a\n",
		},
		{
			"an object that somebody else has changed is applied", must, one,
			func() *scene {
				s := newScene().holds(one, 0, cmID("a"))
				live := s.live[cmID("a")]
				live.Ownership = inventory.Hash{7}
				s.live[cmID("a")] = live
				return s
			}(), "apply: a\n",
		},
		{
			"an object that somebody has deleted is applied", must, one,
			func() *scene {
				s := newScene().holds(one, 0, cmID("a"))
				delete(s.live, cmID("a"))
				return s
			}(), "apply: a\n",
		},
		{
			"an object that nobody owns is not taken under must_match", must, one, newScene().has(cmID("a"), ""),
			"skipped a: the object exists and was not made by this project: set inventory_policy: adopt_if_no_inventory for this project in the agent's configuration to take it over\n",
		},
		{"an object that nobody owns is taken under adopt_if_no_inventory", adopt, one, newScene().has(cmID("a"), ""), "apply: a\n"},
		{
			"an object of others is not taken under adopt_if_no_inventory", adopt, one, newScene().has(cmID("a"), "other"),
			"skipped a: the object exists and belongs to inventory \"other\": remove it there, or set inventory_policy: adopt_all for this project in the agent's configuration to take it over\n",
		},
		{"an object of others is taken under adopt_all", all, one, newScene().has(cmID("a"), "other"), "apply: a\n"},
		{"what left the repository is pruned", must, one, newScene().holds(one, 0, cmID("a")).has(cmID("b"), owner), "unchanged a: \nprune: b\n"},
		{
			"nothing is pruned with prune off", keep, one, newScene().has(cmID("b"), owner),
			"skipped b: left the repository, not deleted: prune is off for this project\napply: a\n",
		},
		{
			"nothing is pruned for an incomplete set", must, broken, newScene().has(cmID("b"), owner),
			"skipped b: left the repository, not deleted: the commit could not be read completely: correct its errors\napply: a\n" +
				"held back: 1 object(s) left the repository and are not deleted: the commit could not be read completely: correct its errors\n",
		},
		{
			"an incomplete set does not even forget what is gone", must, broken,
			func() *scene {
				s := newScene().has(cmID("b"), owner)
				delete(s.live, cmID("b"))
				return s
			}(), "apply: a\n",
		},
		{
			"an empty set prunes nothing", must, set(t), newScene().has(cmID("b"), owner),
			"skipped b: left the repository, not deleted: the commit holds no object at all: set allow_empty: true for this project in the agent's configuration if that is meant\n" +
				"held back: 1 object(s) left the repository and are not deleted: the commit holds no object at all: set allow_empty: true for this project in the agent's configuration if that is meant\n",
		},
		{"an empty set prunes everything where that is allowed", empty, set(t), newScene().has(cmID("b"), owner), "prune: b\n"},
		{
			"what another inventory owns by now is forgotten", must, one,
			func() *scene {
				s := newScene().has(cmID("b"), owner)
				return s.has(cmID("b"), "other")
			}(), "apply: a\ngone b\n",
		},
		{
			"what is marked to stay is let go", must, one,
			newScene().has(cmID("b"), owner, "cli-utils.sigs.k8s.io/on-remove=keep").
				has(cmID("c"), owner, "client.lifecycle.config.k8s.io/deletion=detach"),
			"apply: a\nprune: b(detach) c(detach)\n",
		},
		{
			"what is of a kind that is not served stays on the inventory", must, one,
			func() *scene {
				s := newScene()
				s.inv.Set(goneKind, inventory.Entry{})
				s.kinds[goneKind.GroupKind.WithVersion("")] = gitops.Kind{Err: gitops.ErrNotServed}
				return s
			}(),
			"skipped x: left the repository, not deleted yet: its kind is not served by the API server at present\napply: a\n",
		},
		{
			"kinds come in the order of cli-utils, CRDs before all", must,
			set(t, kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "hook"),
				kind("apps/v1", "Deployment", "app"), kind("example.com/v1", "Zebra", "zebra"), cm("a", "1"),
				kind("v1", "ServiceAccount", "sa"), kind("v1", "Namespace", "ns"),
				kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "crd")),
			newScene(),
			"define: crd\napply: ns\napply: sa\napply: a\napply: app\napply: zebra\napply: hook\n",
		},
		{
			"prunes go the other way round", empty, set(t),
			newScene().has(nsID, owner).has(cmID("b"), owner).
				has(inventory.ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Namespace: "default", Name: "app"}, owner),
			"prune: app\nprune: b\nprune: ns\n",
		},
		{
			"dependents come after what they depend on, and go before", must,
			set(t, after("c", "b"), after("b", "a"), cm("a", "1")),
			newScene().has(cmID("y"), owner, "config.kubernetes.io/depends-on=/namespaces/default/ConfigMap/x").has(cmID("x"), owner),
			"apply: a\napply: b\napply: c\nprune: y\nprune: x\n",
		},
		{
			"a circle fails alone", must, set(t, after("a", "b"), after("b", "a"), cm("c", "1")), newScene(),
			"failed a: config.kubernetes.io/depends-on goes round in a circle: ConfigMap default/a -> ConfigMap default/b -> ConfigMap default/a\n" +
				"failed b: config.kubernetes.io/depends-on goes round in a circle: ConfigMap default/b -> ConfigMap default/a -> ConfigMap default/b\n" +
				"apply: c\n",
		},
		{
			"a dependency that is not there fails alone", must, set(t, after("a", "nowhere"), cm("c", "1")), newScene(),
			"failed a: config.kubernetes.io/depends-on names ConfigMap default/nowhere, which this project does not hold\napply: c\n",
		},
		{
			"one object in two files fails, and is not pruned", must,
			set(t, cm("a", "1"), `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: default}}`),
			newScene().has(cmID("a"), owner),
			"failed a: the same object is in f0.yaml:1 and in f1.yaml:1: remove one\n" +
				"failed a: the same object is in f0.yaml:1 and in f1.yaml:1: remove one\n",
		},
		{
			"an object in a version that is not served is not pruned", must,
			set(t, kind("v0beta1", "ConfigMap", "a")), newScene().has(cmID("a"), owner),
			"failed a: no matches for kind \"ConfigMap\" in version \"v0beta1\": is its CRD missing?\n",
		},
		{
			"an object of no kind fails", must, gitops.Desired{Commit: "c", Set: manifests.Set{Objects: []manifests.Object{{}}}}, newScene(),
			"failed : no matches for kind \"\" in version \"\": is its CRD missing?\n",
		},
		{
			"an object without a name fails", must, set(t, `{apiVersion: v1, kind: ConfigMap, metadata: {generateName: a-}}`), newScene(),
			"failed : metadata.name is missing; an object that only has generateName cannot be synced\n",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, show(row.scene.plan(row.project, row.desired)))
		})
	}
}

func TestPlan_ScopeOfTheKindDecidesAboutTheNamespace(t *testing.T) {
	p := project()
	p.DefaultNamespace = "mine"
	steps := newScene().plan(p, set(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: bare}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: placed, namespace: theirs}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: role, namespace: ignored}}`))
	got := map[string]string{}
	for _, wave := range steps.Waves {
		for _, step := range wave {
			got[step.Status.ID.Name] = step.Status.ID.Namespace
		}
	}
	require.Equal(t, map[string]string{"bare": "mine", "placed": "theirs", "role": ""}, got)
}

func TestPlan_ContentsOfANamespaceThatWaitsComeAfterIt(t *testing.T) {
	steps := newScene().plan(project(), set(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: inside, namespace: ns}}`,
		`{apiVersion: v1, kind: Namespace, metadata: {name: ns, annotations: {config.kubernetes.io/depends-on: /namespaces/default/ConfigMap/a}}}`,
		cm("a", "1")))
	require.Equal(t, "apply: a\napply: ns\napply: inside\n", show(steps))
}

func BenchmarkPlan_Unchanged(b *testing.B) {
	const n = 10_000
	docs := make([]string, n)
	for i := range docs {
		docs[i] = cm(fmt.Sprintf("cm-%05d", i), "1")
	}
	d := set(b, docs...)
	s := newScene()
	for i := range docs {
		s.holds(d, i, cmID(d.Set.Objects[i].ID.Name))
	}
	b.ReportAllocs()
	for b.Loop() {
		if steps := s.plan(project(), d); len(steps.Verdicts) != n {
			b.Fatal("something changed")
		}
	}
}

func BenchmarkRun_Unchanged(b *testing.B) {
	const n = 10_000
	docs := make([]string, n)
	for i := range docs {
		docs[i] = cm(fmt.Sprintf("cm-%05d", i), "1")
	}
	d := set(b, docs...)
	c := newWorld().process()
	p := project()
	p.Parallel = gitops.DefaultParallel
	_, err := gitops.Run(b.Context(), c, p, d, newObserver())
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		result, err := gitops.Run(b.Context(), c, p, d, newObserver())
		if err != nil || result.Failed > 0 {
			b.Fatal(result, err)
		}
	}
}

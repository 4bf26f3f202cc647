package engine_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
)

// kept is an agent that watches what it has synced.
type kept struct {
	*agent
	log    *log
	ready  *readiness
	healed chan gitops.ObjectStatus
}

// keep syncs documents and has them kept in form until the test ends.
func keep(t *testing.T, a *agent, yamls ...string) *kept {
	t.Helper()
	k := &kept{agent: a, log: newLog(), healed: make(chan gitops.ObjectStatus, 10_000)}
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, yamls...), k.log)
	require.NoError(t, err)
	require.Zero(t, result.Failed, "%+v", k.log.newest)
	k.ready = watchWith(t, a, result, k.log, func(s gitops.ObjectStatus) { k.healed <- s })
	testkit.Eventually(t, func() error { return k.ready.drifted(0) })
	return k
}

// edit is a foreign hand on a ConfigMap of the agent's namespace.
func (a *agent) edit(t *testing.T, name, manager, patch string) {
	t.Helper()
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), name, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: manager})
	require.NoError(t, err)
}

func TestWatch_HealsWhatOthersChangeAndDelete(t *testing.T) {
	a := newAgent(t)
	k := keep(t, a, configMap("one", "1"), configMap("two", "1"), configMap("three", "1"))

	a.edit(t, "one", "kubectl-edit", `{"data":{"key":"foreign","more":"stays"}}`)
	require.Equal(t, gitops.ActionConfigured, (<-k.healed).Action)
	require.Equal(t, map[string]string{"key": "1", "more": "stays"}, a.data("one"), "what is not ours is left alone")
	a.edit(t, "one", "kubectl-edit", `{"data":{"key":null}}`)
	<-k.healed
	require.Equal(t, "1", a.data("one")["key"])
	require.NoError(t, a.client.CoreV1().ConfigMaps(a.namespace).Delete(t.Context(), "two", metav1.DeleteOptions{}))
	require.Equal(t, gitops.ActionCreated, (<-k.healed).Action)
	// The mark of the owner alone, under must_match.
	a.edit(t, "three", "kubectl-annotate", `{"metadata":{"annotations":{"`+gitops.OwnerAnnotation+`":null}}}`)
	require.Equal(t, "three", (<-k.healed).ID.Name)
	testkit.Eventually(t, func() error { return k.ready.is(true, 0) })

	// What was healed is on record: nothing is left to do, not even after a restart.
	k.ready.stop()
	a.restart()
	a.requests.reset()
	a.sync(configMap("one", "1"), configMap("two", "1"), configMap("three", "1"))
	require.Zero(t, a.requests.writes.Load())
}

func TestWatch_HealsManyDeletedObjectsTogether(t *testing.T) {
	const n = 500
	a := newAgent(t)
	k := keep(t, a, docs("cm", "1", n)...)
	began := time.Now()
	// By name: the inventory lives in the same namespace.
	g := grouped()
	for i := range n {
		g.Go(func() error {
			return a.client.CoreV1().ConfigMaps(a.namespace).Delete(t.Context(), fmt.Sprintf("cm-%05d", i), metav1.DeleteOptions{})
		})
	}
	require.NoError(t, g.Wait())
	deleted := time.Since(began)
	for range n {
		<-k.healed
	}
	t.Logf("%d objects deleted in %s, healed after %s", n, deleted, time.Since(began))
	testkit.Eventually(t, func() error { return k.ready.is(true, 0) })
}

// rival sets a field of a ConfigMap back whenever somebody else has changed it.
func rival(t *testing.T, a *agent, name, manager, value string) (edits func() int) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"data":{"key":%q}}`, value)
	var mu sync.Mutex
	count := 0
	a.follow(name, func(cm *corev1.ConfigMap) bool {
		if cm.Data["key"] == value || cm.Data["key"] == "" {
			return false
		}
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), name, types.MergePatchType, patch,
			metav1.PatchOptions{FieldManager: manager})
		if err == nil {
			mu.Lock()
			count++
			mu.Unlock()
		}
		return false
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

func TestWatch_FightIsShownWithBothNamesAndSlowedDown(t *testing.T) {
	a := newAgent(t)
	k := keep(t, a, configMap("fought", "ours"), configMap("other", "1"))
	a.requests.reset()
	edits := rival(t, a, "fought", "hpa-lookalike", "theirs")

	var last gitops.ObjectStatus
	began := time.Now()
	for last.Contest == nil { // at 0, 0 and 5 s
		last = <-k.healed
	}
	require.GreaterOrEqual(t, time.Since(began), 4*time.Second)
	require.Equal(t, []gitops.Contender{{Manager: "hpa-lookalike", Fields: []string{".data.key"}}}, last.Contest.Contenders)
	testkit.Eventually(t, func() error {
		if s := k.log.get("ConfigMap/fought"); s.Contest == nil || s.Contest.Heals < 3 {
			return errNotSo
		}
		return nil
	})
	require.Contains(t, k.log.get("ConfigMap/fought").Message, "agentk and hpa-lookalike both set .data.key")
	select {
	case s := <-k.healed:
		t.Fatalf("healed again: %v", s)
	case <-time.After(10*time.Second - time.Since(began)):
	}
	t.Logf("%d writes of ours, inventory included, and %d of the rival in %s", a.requests.writes.Load(), edits(), time.Since(began))
	require.LessOrEqual(t, a.requests.writes.Load(), int64(5), "three applies, and the inventory once after each of the two before it was a fight, at most")

	a.edit(t, "other", "kubectl-edit", `{"data":{"key":"foreign"}}`)
	began = time.Now()
	for (<-k.healed).ID.Name != "other" {
	}
	t.Logf("meanwhile another object was healed in %s", time.Since(began))
	require.Less(t, time.Since(began), 25*time.Second, "what is fought about would take 30 s")
}

const scaled = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, annotations: {agent.gitlab.com/ignore-fields: "/spec/replicas, /spec/template/spec/containers/1/image"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
      - {name: main, image: "main:1", ports: [{containerPort: 80}]}
      - {name: side, image: "side:1"}
`

func TestWatch_FieldsAreLeftToWhoeverElseSetsThem(t *testing.T) {
	a := newAgent(t)
	k := keep(t, a, scaled, configMap("rest", "1"))
	apps := a.client.AppsV1().Deployments(a.namespace)
	get := func() *appsv1.Deployment {
		d, err := apps.Get(t.Context(), "app", metav1.GetOptions{})
		require.NoError(t, err)
		return d
	}
	require.Equal(t, int32(2), *get().Spec.Replicas, "nobody else sets it yet")

	_, err := apps.Patch(t.Context(), "app", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`),
		metav1.PatchOptions{FieldManager: "autoscaler"}, "scale")
	require.NoError(t, err)
	<-k.healed
	require.Equal(t, int32(5), *get().Spec.Replicas)
	_, err = apps.Patch(t.Context(), "app", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"main:2"},{"name":"side","image":"side:2"}]}}}}`),
		metav1.PatchOptions{FieldManager: "image-updater"})
	require.NoError(t, err)
	<-k.healed
	testkit.Eventually(t, func() error {
		containers := get().Spec.Template.Spec.Containers
		if containers[0].Image != "main:1" || containers[1].Image != "side:2" {
			return fmt.Errorf("%w: %s %s", errNotSo, containers[0].Image, containers[1].Image)
		}
		return nil
	})

	// From now on the autoscaler costs nothing.
	a.requests.reset()
	for n := range 3 {
		_, err = apps.Patch(t.Context(), "app", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, 6+n),
			metav1.PatchOptions{FieldManager: "autoscaler"}, "scale")
		require.NoError(t, err)
	}
	a.edit(t, "rest", "kubectl-edit", `{"data":{"key":"foreign"}}`)
	require.Equal(t, "rest", (<-k.healed).ID.Name)
	require.Equal(t, int32(8), *get().Spec.Replicas)

	// A new commit leaves the fields alone, too, and one without the annotation
	// takes them back.
	k.ready.stop()
	second := slices.Clone([]string{scaled, configMap("rest", "1")})
	second[0] += "      - {name: third, image: \"third:1\"}\n"
	a.sync(second...)
	require.Equal(t, int32(8), *get().Spec.Replicas)
	require.Equal(t, "side:2", get().Spec.Template.Spec.Containers[1].Image)
	require.Len(t, get().Spec.Template.Spec.Containers, 3)
	a.project.Ignore = []gitops.IgnoreRule{{Group: "apps", Kind: "Deployment", Fields: []string{"/spec/replicas"}}}
	a.sync(without(scaled), configMap("rest", "1"))
	require.Equal(t, int32(8), *get().Spec.Replicas)
	require.Equal(t, "side:1", get().Spec.Template.Spec.Containers[1].Image)
	a.project.Ignore = nil
	a.sync(without(scaled), configMap("rest", "1"))
	require.Equal(t, int32(2), *get().Spec.Replicas, "the rule is gone")
}

func TestWatch_DriftThatTheManifestIgnoresStays(t *testing.T) {
	a := newAgent(t)
	ignored := func(name, value string) string {
		return annotated(configMap(name, value), name, "agent.gitlab.com/drift: ignore")
	}
	k := keep(t, a, ignored("changed", "1"), ignored("deleted", "1"), configMap("rest", "1"))
	a.edit(t, "changed", "kubectl-edit", `{"data":{"key":"foreign"}}`)
	require.NoError(t, a.client.CoreV1().ConfigMaps(a.namespace).Delete(t.Context(), "deleted", metav1.DeleteOptions{}))
	a.edit(t, "rest", "kubectl-edit", `{"data":{"key":"foreign"}}`)
	require.Equal(t, "rest", (<-k.healed).ID.Name)
	testkit.Eventually(t, func() error {
		if k.log.get("ConfigMap/deleted").Health != gitops.HealthNotFound {
			return errNotSo
		}
		return nil
	})
	require.Contains(t, k.log.get("ConfigMap/changed").Message, "left at that")
	require.Empty(t, k.healed)
	k.ready.stop()

	a.sync(ignored("changed", "1"), ignored("deleted", "1"), configMap("rest", "1"))
	require.Equal(t, "foreign", a.data("changed")["key"])
	a.sync(ignored("changed", "2"), ignored("deleted", "2"), configMap("rest", "1"))
	require.Equal(t, "2", a.data("changed")["key"])
	require.Equal(t, "2", a.data("deleted")["key"])
}

func TestWatch_NamespaceThatSomebodyDeletesComesBackWithAllItHolds(t *testing.T) {
	a := newAgent(t)
	home := a.namespace + "-home"
	k := keep(t, a, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+home+"}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: "+home+"}\ndata: {key: \"1\"}\n")
	require.NoError(t, a.client.CoreV1().Namespaces().Delete(t.Context(), home, metav1.DeleteOptions{}))
	// While a part of the API server has not heard of the deletion yet, it takes what is created
	// in the namespace, which goes with it all the same.
	name := (<-k.healed).ID.Name
	for name == "a" {
		name = (<-k.healed).ID.Name
	}
	require.Equal(t, home, name)
	require.Equal(t, "a", (<-k.healed).ID.Name)
	testkit.Eventually(t, func() error {
		_, err := a.client.CoreV1().ConfigMaps(home).Get(t.Context(), "a", metav1.GetOptions{})
		return errors.Join(err, k.ready.is(true, 0))
	})
}

// without is a document without its annotations.
func without(doc string) string {
	return annotations.ReplaceAllString(doc, "")
}

var annotations = regexp.MustCompile(`, annotations: \{[^}]*\}`)

func grouped() *errgroup.Group {
	g := &errgroup.Group{}
	g.SetLimit(32)
	return g
}

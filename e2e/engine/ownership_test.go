package engine_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"errors"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

// annotated puts annotations into a document.
func annotated(doc, name string, annotations ...string) string {
	return strings.Replace(doc, "name: "+name, "name: "+name+"\n  annotations:\n    "+strings.Join(annotations, "\n    "), 1)
}

func TestRun_PolicyDecidesAboutForeignObjects(t *testing.T) {
	a := newAgent(t)
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string]string{"key": "theirs"}}
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), foreign, metav1.CreateOptions{})
	require.NoError(t, err)
	owned := foreign.DeepCopy()
	owned.Name, owned.Annotations = "others", map[string]string{gitops.OwnerAnnotation: "9-9"}
	_, err = a.client.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), owned, metav1.CreateOptions{})
	require.NoError(t, err)
	docs := []string{configMap("theirs", "ours"), configMap("others", "ours")}

	result, l := a.sync(docs...)
	require.Equal(t, 2, result.Failed)
	require.Equal(t, gitops.ActionSkipped, l.get("ConfigMap/theirs").Action)
	require.Contains(t, l.get("ConfigMap/theirs").Message, "adopt_if_no_inventory")
	require.Contains(t, l.get("ConfigMap/others").Message, `"9-9"`)
	require.Empty(t, a.inventory(), "nothing that is not ours is recorded")

	a.project.Policy = inventory.PolicyAdoptIfNoInventory
	result, l = a.sync(docs...)
	require.Equal(t, 1, result.Failed)
	require.Equal(t, gitops.ActionConfigured, l.get("ConfigMap/theirs").Action)
	require.Equal(t, gitops.ActionSkipped, l.get("ConfigMap/others").Action)

	a.project.Policy = inventory.PolicyAdoptAll
	result, _ = a.sync(docs...)
	require.Zero(t, result.Failed)
	require.Equal(t, map[string]string{"key": "ours"}, a.data("others"))
}

func TestRun_ObjectsMarkedToStayAreLetGo(t *testing.T) {
	a := newAgent(t)
	a.sync(
		annotated(configMap("kept", "1"), "kept", "cli-utils.sigs.k8s.io/on-remove: keep"),
		annotated(configMap("detached", "1"), "detached", "client.lifecycle.config.k8s.io/deletion: detach"),
		configMap("rest", "1"))

	_, l := a.sync(configMap("rest", "1"))
	require.ElementsMatch(t, []string{"ConfigMap/kept", "ConfigMap/detached"}, l.removed)
	require.Len(t, a.inventory(), 1)
	for _, name := range []string{"kept", "detached"} {
		cm, err := a.client.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		require.NotContains(t, cm.Annotations, gitops.OwnerAnnotation)
		require.Equal(t, map[string]string{"key": "1"}, cm.Data)
	}
}

func TestRun_ObjectOfAnotherInventoryIsNotPruned(t *testing.T) {
	a := newAgent(t)
	a.sync(configMap("moved", "1"), configMap("rest", "1"))
	other := a.project
	other.Key, other.Policy = a.project.Key+"-b", inventory.PolicyAdoptAll
	_, err := gitops.Run(t.Context(), a.cluster, other, desired(t, configMap("moved", "1")), newLog())
	require.NoError(t, err)

	_, l := a.sync(configMap("rest", "1"))
	require.Equal(t, []string{"ConfigMap/moved"}, l.removed)
	require.Equal(t, map[string]string{"key": "1"}, a.data("moved"))
}

func TestRun_EmptySetIsHeldBackUntilAllowed(t *testing.T) {
	a := newAgent(t)
	a.sync(configMap("one", "1"))

	result, l := a.sync()
	require.Contains(t, result.HeldBack, "1 object(s)")
	require.Contains(t, result.HeldBack, "allow_empty: true")
	require.Equal(t, gitops.ActionSkipped, l.get("ConfigMap/one").Action)
	require.Equal(t, map[string]string{"key": "1"}, a.data("one"))

	a.project.AllowEmpty = true
	result, l = a.sync()
	require.Empty(t, result.HeldBack)
	require.Equal(t, []string{"ConfigMap/one"}, l.removed)
}

func TestRun_TakesOverAStockInventory(t *testing.T) {
	a := newAgent(t)
	owner := map[string]string{gitops.OwnerAnnotation: a.project.Key}
	for _, name := range []string{"stays", "leaves"} {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: owner}}
		_, err := a.client.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), cm, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "inventory-of-old", Labels: map[string]string{inventory.Label: a.project.Key}},
		Data: map[string]string{
			a.namespace + "_stays__ConfigMap":  `{"actuation":"Succeeded","reconcile":"Succeeded","strategy":"Apply"}`,
			a.namespace + "_leaves__ConfigMap": "",
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	_, l := a.sync(configMap("stays", "1"))
	require.Equal(t, gitops.ActionConfigured, l.get("ConfigMap/stays").Action)
	require.Equal(t, []string{"ConfigMap/leaves"}, l.removed)
	require.Equal(t, []string{a.namespace + "_stays__ConfigMap"}, a.inventory())
}

func TestRun_NoticesASecondWriterOfTheInventory(t *testing.T) {
	a := newAgent(t)
	a.sync(configMap("one", "1"))
	_, err := a.client.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), "inventory-"+a.project.Key,
		types.MergePatchType, []byte(`{"data":{"x_y__ConfigMap":""}}`), metav1.PatchOptions{})
	require.NoError(t, err)

	_, err = gitops.Run(t.Context(), a.cluster, a.project, desired(t, configMap("one", "2")), newLog())
	require.ErrorIs(t, err, inventory.ErrConflict)
	_, l := a.sync(configMap("one", "2"))
	require.Equal(t, gitops.ActionUnchanged, l.get("ConfigMap/one").Action, "applied by the try before")
	require.Contains(t, l.removed, "ConfigMap/y", "what the other recorded is known now")
}

// readiness keeps what Watch told last.
type readiness struct {
	mu   sync.Mutex
	told *gitops.Readiness
	// stop ends the Watch: a run must not go beside it.
	stop func()
}

var errNotSo = errors.New("readiness is not as wanted yet")

func (r *readiness) is(ready bool, drifted int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told == nil || r.told.Ready != ready || len(r.told.Drifted) != drifted {
		return errNotSo
	}
	return nil
}

func (r *readiness) drifted(n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told == nil || len(r.told.Drifted) != n {
		return errNotSo
	}
	return nil
}

// watch runs Watch until the test ends or stop is called.
func watch(t *testing.T, a *agent, result gitops.Result, o gitops.Observer) *readiness {
	t.Helper()
	return watchWith(t, a, result, o, nil)
}

// heals is a gitops.HealObserver; nil: it does not listen.
type heals func(gitops.ObjectStatus)

func (h heals) Healed(s gitops.ObjectStatus) {
	if h != nil {
		h(s)
	}
}
func (heals) HealFailed(inventory.ID, error) {}
func (heals) Contested(int)                  {}

// watchWith is watch and tells of what was healed.
func watchWith(t *testing.T, a *agent, result gitops.Result, o gitops.Observer, healed func(gitops.ObjectStatus)) *readiness {
	t.Helper()
	r := &readiness{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	project := a.project
	project.Heals = heals(healed)
	go func() {
		done <- gitops.Watch(ctx, a.cluster, project, result, o, gitops.WatchConfig{
			OnReadiness: func(now gitops.Readiness) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.told = &now
			},
		})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func TestWatch_FollowsAForegroundDeletionToItsEnd(t *testing.T) {
	a := newAgent(t)
	a.project.Propagation = "Foreground"
	a.sync(configMap("leaves", "1"), configMap("rest", "1"))
	l := newLog()
	result, err := gitops.Run(t.Context(), a.cluster, a.project, desired(t, configMap("rest", "1")), l)
	require.NoError(t, err)

	ready := watch(t, a, result, l)
	testkit.Eventually(t, func() error { return ready.is(true, 0) })
	require.Equal(t, gitops.ActionPruned, l.get("ConfigMap/leaves").Action)
	require.Len(t, a.inventory(), 1)
}

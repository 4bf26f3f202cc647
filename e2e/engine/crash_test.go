package engine_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/inventory"
)

// crashScene is a project whose next commit creates, changes, lets go of and prunes.
type crashScene struct {
	*agent
	t *testing.T
	// group of the custom resource that comes, and of the one that leaves.
	group, relics string
	// versions of the objects that nobody may touch.
	versions map[string]string
	next     gitops.Desired
}

// newCrashScene applies the first commit. Its definition may have an instance, which it
// takes the garbage collector half a minute to notice.
func newCrashScene(t *testing.T, parallel int, instance bool) *crashScene {
	t.Helper()
	s := &crashScene{agent: newAgent(t), t: t}
	t.Cleanup(s.clear)
	s.project.Propagation, s.project.Parallel = "Foreground", parallel
	// One by one, Run records all by itself; otherwise it leaves that to Watch, as in agentk.
	s.project.RecordLate = parallel != 1
	// One shard is nearly full, of something that cannot be read: what is recorded
	// spreads over several, and moves between them.
	_, err := s.client.CoreV1().ConfigMaps(s.namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name: "inventory-" + s.project.Key, Labels: map[string]string{inventory.Label: s.project.Key},
		},
		Data: map[string]string{"unreadable": strings.Repeat("x", 64<<10-700)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	relics, relicGroup := crd(s.agent, "Relic")
	s.relics = relicGroup
	var relic string
	if instance {
		relic = fmt.Sprintf("apiVersion: %s/v1\nkind: Relic\nmetadata:\n  name: r\nspec:\n  size: 3\n", relicGroup)
	}
	s.sync(
		configMap("stays", "1"), configMap("changes", "1"), configMap("leaves", "1"),
		annotated(configMap("held", "1"), "held", "note: held by a finalizer"),
		"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+s.old()+"\n",
		strings.Replace(configMap("within", "1"), "name: within", "name: within\n  namespace: "+s.old(), 1),
		relics, relic,
		annotated(configMap("detached", "1"), "detached", "cli-utils.sigs.k8s.io/on-remove: keep"),
		configMap("moved", "1"), deployment("old", 1))
	testkit.Eventually(t, func() error {
		sets, err := s.client.AppsV1().ReplicaSets(s.namespace).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(sets.Items) != 1 {
			return errNotSo
		}
		return err
	})
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = maps.Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/hold"]}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	s.letGo()
	_, err = maps.Patch(t.Context(), "moved", types.MergePatchType,
		fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"9-9"}}}`, gitops.OwnerAnnotation), metav1.PatchOptions{})
	require.NoError(t, err)
	s.versions = s.untouchable()
	s.stop()

	definition, group := crd(s.agent, "Widget")
	s.group = group
	inside := strings.Replace(configMap("inside", "1"), "name: inside", "name: inside\n  namespace: "+s.other(), 1)
	s.next = desired(t,
		configMap("stays", "1"), configMap("changes", "2"), configMap("theirs", "ours"), configMap("new", "1"),
		fmt.Sprintf("apiVersion: %s/v1\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: 3\n", group), definition,
		inside, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+s.other()+"\n", deployment("fresh", 0))
	return s
}

// clear takes away what makes the next scenes slow: each engine's informers see the whole
// cluster.
func (s *crashScene) clear() {
	ctx := context.WithoutCancel(s.t.Context())
	for _, namespace := range []string{s.namespace, s.other()} {
		err := s.client.CoreV1().ConfigMaps(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		if err != nil {
			s.t.Errorf("clear: %v", err)
		}
	}
	err := s.client.AppsV1().Deployments(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		s.t.Errorf("clear: %v", err)
	}
	if s.group == "" {
		return
	}
	definitions := s.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if err := definitions.Delete(ctx, "widgets."+s.group, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		s.t.Errorf("clear: %v", err)
	}
}

// other is the namespace that comes with the second commit.
func (s *crashScene) other() string { return s.namespace + "-b" }

// old is the namespace that leaves with it.
func (s *crashScene) old() string { return s.namespace + "-a" }

// heldFor is how long the finalizer holds an object that is being deleted: longer than
// a process takes from there to its end, so that what it records meanwhile is seen.
const heldFor = 2 * time.Second

// letGo takes the finalizer away a while after the deletion has begun.
func (s *crashScene) letGo() {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	s.follow("held", func(cm *corev1.ConfigMap) bool {
		if cm.DeletionTimestamp == nil {
			return false
		}
		select {
		case <-time.After(heldFor):
		case <-s.t.Context().Done():
		}
		_, err := maps.Patch(context.WithoutCancel(s.t.Context()), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			s.t.Errorf("let go: %v", err)
		}
		return true
	})
}

func deployment(name string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: main, image: main}]}
`, name, replicas)
}

// untouchable are the resource versions of what the second commit leaves alone.
func (s *crashScene) untouchable() map[string]string {
	s.t.Helper()
	versions := map[string]string{}
	for _, name := range []string{"stays", "theirs", "moved"} {
		cm, err := s.client.CoreV1().ConfigMaps(s.namespace).Get(s.t.Context(), name, metav1.GetOptions{})
		require.NoError(s.t, err)
		versions[name] = cm.ResourceVersion
	}
	return versions
}

// ours lists everything with our mark, from outside, by its text as an ID.
func (s *crashScene) ours() []string {
	s.t.Helper()
	objects, err := metadata.NewForConfig(server)
	require.NoError(s.t, err)
	var found []string
	for gvk, resource := range map[schema.GroupKind]schema.GroupVersionResource{
		{Kind: "ConfigMap"}:                 {Version: "v1", Resource: "configmaps"},
		{Kind: "Namespace"}:                 {Version: "v1", Resource: "namespaces"},
		{Group: "apps", Kind: "Deployment"}: {Group: "apps", Version: "v1", Resource: "deployments"},
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: {
			Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
		},
		{Group: s.group, Kind: "Widget"}: {Group: s.group, Version: "v1", Resource: "widgets"},
		{Group: s.relics, Kind: "Relic"}: {Group: s.relics, Version: "v1", Resource: "relics"},
	} {
		list, err := objects.Resource(resource).List(s.t.Context(), metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue // not served yet
		}
		require.NoError(s.t, err)
		for i := range list.Items {
			if list.Items[i].GetAnnotations()[gitops.OwnerAnnotation] == s.project.Key {
				id := inventory.ID{GroupKind: gvk, Namespace: list.Items[i].GetNamespace(), Name: list.Items[i].GetName()}
				found = append(found, id.String())
			}
		}
	}
	slices.Sort(found)
	return found
}

// recorded is the inventory as it is stored, once for each shard that has an entry. The
// news have none alone.
func (s *crashScene) recorded() []string {
	s.t.Helper()
	list, err := s.client.CoreV1().ConfigMaps(s.namespace).List(s.t.Context(), metav1.ListOptions{
		LabelSelector: inventory.Label + "=" + s.project.Key,
	})
	require.NoError(s.t, err)
	var keys, news []string
	for _, cm := range list.Items {
		names := slices.Collect(maps.Keys(cm.Data))
		if strings.HasSuffix(cm.Name, "-new") {
			news = names
			continue
		}
		keys = append(keys, names...)
	}
	for _, key := range news {
		if !slices.Contains(keys, key) {
			keys = append(keys, key) // they are loaded all the same
		}
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == "unreadable" })
	slices.Sort(keys)
	return keys
}

// checkCrashed checks what must hold whenever the process has died.
func (s *crashScene) checkCrashed() {
	s.t.Helper()
	recorded := s.recorded()
	for _, id := range s.ours() {
		require.Contains(s.t, recorded, id, "it exists because of us, and the inventory does not know")
	}
	require.Equal(s.t, s.versions, s.untouchable())
}

// checkConverged checks what must hold once a process has survived.
func (s *crashScene) checkConverged() {
	s.t.Helper()
	var want []string
	for i := range s.next.Set.Objects {
		id := s.next.Set.Objects[i].ID
		if id.Name == "theirs" {
			continue
		}
		if id.Namespace == "" && id.GroupKind.Kind != "Namespace" && id.GroupKind.Kind != "CustomResourceDefinition" {
			id.Namespace = s.namespace
		}
		want = append(want, id.String())
	}
	slices.Sort(want)
	require.Equal(s.t, want, s.ours())
	require.Equal(s.t, want, s.recorded())
	require.Equal(s.t, s.versions, s.untouchable())
	got := map[string]string{}
	for _, namespace := range []string{s.namespace, s.other()} {
		list, err := s.client.CoreV1().ConfigMaps(namespace).List(s.t.Context(), metav1.ListOptions{})
		require.NoError(s.t, err)
		for _, cm := range list.Items {
			if len(cm.Data["key"]) > 0 {
				got[cm.Name] = cm.Data["key"]
			}
		}
	}
	require.Equal(s.t, map[string]string{
		"stays": "1", "changes": "2", "new": "1", "inside": "1", "detached": "1", "moved": "1",
	}, got)
	sets, err := s.client.AppsV1().ReplicaSets(s.namespace).List(s.t.Context(), metav1.ListOptions{})
	require.NoError(s.t, err)
	for i := range sets.Items {
		require.True(s.t, strings.HasPrefix(sets.Items[i].Name, "fresh-"), "%s outlived its Deployment", sets.Items[i].Name)
	}
}

// recover is the process that survives.
func (s *crashScene) recover() {
	s.t.Helper()
	s.start(server)
	require.NoError(s.t, settle(s.t.Context(), s.cluster, s.project, s.next))
	s.stop()
	s.checkConverged()
}

// deaths is how many processes are started for one to die. How often the inventory is
// written depends on who is faster, so that the last write of one is not there in
// another.
const deaths = 3

// saves is how many writes fewer a sync may send than another: deletions that end
// together are recorded together.
const saves = 4

// allEnv, when set, has all modes die at every write.
const allEnv = "ENGINE_TEST_CRASH_ALL"

// survive has a process live, and returns how many writes it took.
func survive(t *testing.T, parallel int) int64 {
	t.Helper()
	s := newCrashScene(t, parallel, false)
	writes, killed := s.spawn(t, s.next, 0, false)
	require.False(t, killed)
	s.checkConverged()
	return writes
}

// TestCrash_AtEveryWrite kills the process at every write of a sync, before the request
// is sent and before its answer is seen.
func TestCrash_AtEveryWrite(t *testing.T) {
	for _, row := range []struct {
		name     string
		parallel int
		sent     bool
		// every so many writes; all, if allEnv is set.
		every int64
	}{
		{"one request at a time, the answer is lost", 1, true, 1},
		// The same as that, one write earlier, where nothing else is in flight.
		{"one request at a time, the request is not sent", 1, false, 9},
		{"many at a time, the answer is lost", gitops.DefaultParallel, true, 5},
		{"many at a time, the request is not sent", gitops.DefaultParallel, false, 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			// The fewer of two, lest one write of the inventory more is waited for in vain.
			writes := min(survive(t, row.parallel), survive(t, row.parallel))
			require.Greater(t, writes, int64(20), "a sync of that many objects")
			t.Logf("%d writes", writes)
			every := row.every
			if os.Getenv(allEnv) != "" {
				every = 1
			}
			for n := 1 + (writes-1)%every; n <= writes; n += every {
				t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) {
					t.Parallel()
					for try := 1; ; try++ {
						s := newCrashScene(t, row.parallel, false)
						sent, killed := s.spawn(t, s.next, n, row.sent)
						s.checkCrashed()
						s.recover()
						if killed {
							return
						}
						require.Less(t, sent, n, "the process was to die")
						if n > writes-saves && try == deaths {
							t.Logf("%d tries, and none sent %d writes", try, n)
							return
						}
						require.Less(t, try, deaths, "the process was to die, and never sent that many writes")
					}
				})
			}
		})
	}
}

// TestCrash_AgainAndAgain restarts a process that dies at its first write, then at its
// second, and so on, until one survives.
func TestCrash_AgainAndAgain(t *testing.T) {
	s := newCrashScene(t, 0, true)
	for n := int64(1); ; n++ {
		require.Less(t, n, int64(100), "it never gets done")
		_, killed := s.spawn(t, s.next, n, n%2 == 0)
		s.checkCrashed()
		if !killed {
			t.Logf("survived %d crashes", n-1)
			break
		}
	}
	s.checkConverged()
}

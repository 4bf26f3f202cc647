package gitops_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

var errImmutable = errors.New(`"a" is invalid: data: Forbidden: field is immutable`)

func recreatable(name, value, how string) string {
	return strings.Replace(cm(name, value), "name: "+name, "name: "+name+", annotations: {agent.gitlab.com/on-immutable: "+how+"}", 1)
}

// immutably refuses changes of ConfigMap a.
func immutably(f *fakeCluster) {
	f.fault = func(call string) error {
		if _, exists := f.Live(cmID("a")); exists && call == "before apply a" {
			return &gitops.ImmutableError{Fields: []string{"data"}, Err: errImmutable}
		}
		return nil
	}
}

func TestRun_ImmutableFieldFailsAndSaysWhatToDo(t *testing.T) {
	for _, row := range []struct{ name, second, want string }{
		{
			"without the annotation", cm("a", "2"), "data cannot be changed: set annotation agent.gitlab.com/on-immutable: recreate " +
				"on the manifest to have the object deleted and created anew; the API server says: " + errImmutable.Error(),
		},
		{
			"with the annotation's name elsewhere", `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {"agent.gitlab.com/on-immutable": recreate}}`,
			"data cannot be changed: set annotation agent.gitlab.com/on-immutable: recreate " +
				"on the manifest to have the object deleted and created anew; the API server says: " + errImmutable.Error(),
		},
		{
			"with another value", recreatable("a", "2", "replace"), "data cannot be changed: the only value of annotation " +
				"agent.gitlab.com/on-immutable is recreate; the API server says: " + errImmutable.Error(),
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			f := w.process()
			run(t, f, project(), set(t, cm("a", "1")))
			uid := w.objects[cmID("a")].UID
			immutably(f)
			result, o := run(t, f, project(), set(t, row.second))
			require.Equal(t, 1, result.Failed)
			require.Equal(t, row.want, o.get("a").Message)
			require.Equal(t, uid, w.objects[cmID("a")].UID)
		})
	}
}

func TestRun_ImmutableObjectIsRecreatedWhereTheManifestAllowsIt(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("a", "1")))
	uid := w.objects[cmID("a")].UID
	immutably(f)
	p := project()
	p.DryRun = gitops.DryRunServer
	_, o := run(t, f, p, set(t, recreatable("a", "2", "recreate")))
	require.Equal(t, "dry run: it would be deleted and created anew, because data cannot be changed, and the API server agrees", o.get("a").Message)
	require.Equal(t, uid, w.objects[cmID("a")].UID)

	p = project()
	p.Propagation = "Orphan"
	result, o := run(t, f, p, set(t, recreatable("a", "2", "recreate")))
	require.Zero(t, result.Failed)
	require.Equal(t, gitops.ActionConfigured, o.get("a").Action)
	require.Equal(t, "recreated, because data cannot be changed", o.get("a").Message)
	require.NotEqual(t, uid, w.objects[cmID("a")].UID)
	require.Equal(t, "Background", f.removes[0].Propagation)

	_, o = run(t, f, project(), set(t, recreatable("a", "2", "recreate")))
	require.Equal(t, gitops.ActionUnchanged, o.get("a").Action)
}

func TestRun_RecreationIsToldOfUntilTheObjectChangesAgain(t *testing.T) {
	const note = "recreated, because data cannot be changed"
	w := newWorld()
	f := w.process()
	p := project()
	p.Healing = gitops.NewHealing()
	run(t, f, p, set(t, cm("a", "1"), cm("b", "1")))
	immutably(f)
	run(t, f, p, set(t, recreatable("a", "2", "recreate"), cm("b", "1")))
	f.fault = func(string) error { return nil }
	result, quiet := run(t, f, p, set(t, recreatable("a", "2", "recreate"), cm("b", "2")))
	require.Equal(t, note, quiet.get("a").Message, "another run says so, too")
	o := &loud{observer: quiet, heard: make(chan struct{}, 1)}
	watching := watch(t, f, p, result, o)
	<-watching.told
	require.Equal(t, note, o.get("a").Message)
	live, _ := w.Live(cmID("a"))
	u := live.Object.Unstructured()
	u.SetFinalizers([]string{"example.com/hold"})
	now := metav1.Now()
	u.SetDeletionTimestamp(&now)
	w.put(u, live.Ownership, false)
	o.await(t, "a", func(s gitops.ObjectStatus) bool { return s.Health == gitops.HealthTerminating })
	require.Equal(t, note+"; being deleted, held by finalizer example.com/hold", o.get("a").Message, "whatever else there is to say")
	w.remove(cmID("a"))
	<-watching.healed
	o.await(t, "a", func(s gitops.ObjectStatus) bool { return s.Health == gitops.HealthCurrent && s.Message == "" })
	watching.stop()
	_, quiet = run(t, f, p, set(t, recreatable("a", "2", "recreate"), cm("b", "2")))
	require.Empty(t, quiet.get("a").Message)
}

func TestRun_CrashBetweenDeletionAndCreationConverges(t *testing.T) {
	w := newWorld()
	run(t, w.process(), project(), set(t, cm("a", "1")))
	f := w.process()
	immutably(f)
	refuse := f.fault
	crashed := false
	f.fault = func(call string) error {
		if call == "after remove a" {
			crashed = true
		}
		if crashed {
			return gitops.ErrUnavailable
		}
		return refuse(call)
	}
	_, err := gitops.Run(t.Context(), f, project(), set(t, recreatable("a", "2", "recreate")), newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	require.Empty(t, w.names())
	require.True(t, w.recorded(t)["a"], "it is ours as long as it may come back")

	_, o := run(t, w.process(), project(), set(t, recreatable("a", "2", "recreate")))
	require.Equal(t, gitops.ActionCreated, o.get("a").Action)
}

func TestRun_ObjectDeletedToBeCreatedAnewIsCreatedWhateverComesNext(t *testing.T) {
	// Its manifest leaves it to others, who did not delete it: we did.
	lax := func(value string) string {
		return strings.Replace(recreatable("a", value, "recreate"), "annotations: {", "annotations: {agent.gitlab.com/drift: ignore, ", 1)
	}
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, lax("1")))
	immutably(f)
	refuse := f.fault
	f.fault = func(call string) error {
		if _, exists := f.Live(cmID("a")); !exists && call == "before apply a" {
			return errRefused
		}
		return refuse(call)
	}
	p := project()
	p.RecordLate = true // this is not left for later
	_, o := run(t, f, p, set(t, lax("2")))
	require.Equal(t, gitops.ActionFailed, o.get("a").Action)
	require.Empty(t, w.names())

	_, o = run(t, w.process(), project(), set(t, lax("1")))
	require.Equal(t, gitops.ActionCreated, o.get("a").Action)
}

func TestRun_RecreatedObjectThatDoesNotGoFailsWithWhatHoldsIt(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("a", "1")))
	immutably(f)
	w.lingering["a"] = true
	o := newObserver()
	result, _, err := stepping(t, f, project(), set(t, recreatable("a", "2", "recreate")), o, 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, 1, result.Failed)
	require.Contains(t, o.get("a").Message, "delete it to create it anew, because data cannot be changed: it is not gone yet")
	require.Contains(t, o.get("a").Message, "example.com/hold")

	w.lingering["a"] = false
	w.remove(cmID("a"))
	_, o = run(t, f, project(), set(t, recreatable("a", "2", "recreate")))
	require.Equal(t, gitops.ActionCreated, o.get("a").Action)
}

func TestRun_NamespaceIsNeverRecreated(t *testing.T) {
	w := newWorld()
	f := w.process()
	ns := `{apiVersion: v1, kind: Namespace, metadata: {name: home, annotations: {agent.gitlab.com/on-immutable: recreate, v: "%s"}}}`
	run(t, f, project(), set(t, strings.Replace(ns, "%s", "1", 1)))
	f.fault = func(call string) error {
		if call == "before apply home" {
			return &gitops.ImmutableError{Fields: []string{"spec"}, Err: errImmutable}
		}
		return nil
	}
	result, o := run(t, f, project(), set(t, strings.Replace(ns, "%s", "2", 1)))
	require.Equal(t, 1, result.Failed)
	require.Contains(t, o.get("home").Message, "objects of this kind are not deleted for that")
	require.Contains(t, w.objects, inventory.ID{GroupKind: o.get("home").ID.GroupKind, Name: "home"})
}

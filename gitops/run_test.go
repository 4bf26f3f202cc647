package gitops_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, f *fakeCluster, p gitops.Project, d gitops.Desired) (gitops.Result, *observer) {
	t.Helper()
	o := newObserver()
	result, err := gitops.Run(t.Context(), f, p, d, o)
	require.NoError(t, err)
	return result, o
}

func TestRun_RecordsBeforeItAppliesAndSavesRarely(t *testing.T) {
	w := newWorld()
	f := w.process()
	result, o := run(t, f, project(), set(t, cm("a", "1"), cm("b", "1")))
	require.Equal(t, 2, result.Total)
	require.Equal(t, []string{"load", "resolve", "save", "apply a", "apply b", "save"}, f.calls)
	require.Equal(t, gitops.ActionCreated, o.get("a").Action)
	require.Equal(t, gitops.HealthCurrent, o.get("a").Health)
	require.Equal(t, "f0.yaml:1", o.get("a").Position.String())

	f.calls = nil
	_, o = run(t, f, project(), set(t, cm("a", "1"), cm("b", "1")))
	require.Equal(t, []string{"resolve"}, f.calls)
	require.Equal(t, gitops.ActionUnchanged, o.get("a").Action)
}

func TestRun_ConvergesFromACrashAtEveryCall(t *testing.T) {
	letGo := `{apiVersion: v1, kind: ConfigMap, metadata: {name: let-go, annotations: {cli-utils.sigs.k8s.io/on-remove: keep}}}`
	first := []string{cm("keep", "1"), cm("change", "1"), cm("leave", "1"), cm("held", "1"), letGo}
	second := []string{cm("keep", "1"), cm("change", "2"), cm("new", "1"), widgets, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}`}
	crashed := 0
	for n := 1; ; n++ {
		w := newWorld()
		run(t, w.process(), project(), set(t, first...))
		w.lingering["held"] = true

		f := w.process()
		asked := 0
		f.fault = func(string) error {
			if asked++; asked >= n {
				return gitops.ErrUnavailable
			}
			return nil
		}
		_, err := gitops.Run(t.Context(), f, project(), set(t, second...), newObserver())
		for name := range w.names() {
			if name == "let-go" && w.objects[cmID(name)].Owner == "" {
				continue
			}
			require.True(t, w.recorded(t)[name], "crash at %d: %s exists and is not recorded", n, name)
		}
		if err == nil {
			break
		}
		crashed++
		require.ErrorIs(t, err, gitops.ErrUnavailable)
		run(t, w.process(), project(), set(t, second...))
		want := map[string]bool{"keep": true, "change": true, "new": true, "held": true, "widgets.example.com": true, "w": true}
		require.Equal(t, want, w.recorded(t), "crash at %d", n)
		want["let-go"] = true
		require.Equal(t, want, w.names(), "crash at %d", n)
	}
	require.Greater(t, crashed, 20, "every call crashes before and after")
}

func TestRun_BadObjectFailsAloneAndIsTriedAgain(t *testing.T) {
	w := newWorld()
	w.refused["bad"] = true
	f := w.process()
	d := set(t, cm("bad", "1"), cm("good", "1"))
	result, o := run(t, f, project(), d)
	require.Equal(t, 1, result.Failed)
	require.Equal(t, errRefused.Error(), o.get("bad").Message)
	require.Equal(t, gitops.ActionCreated, o.get("good").Action)

	w.refused["bad"] = false
	result, o = run(t, f, project(), d)
	require.Zero(t, result.Failed)
	require.Equal(t, gitops.ActionCreated, o.get("bad").Action)
}

func TestRun_RefusedPruneStaysOnTheInventory(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("held", "1"), cm("rest", "1")))
	w.refused["held"] = true
	result, o := run(t, f, project(), set(t, cm("rest", "1")))
	require.Equal(t, 1, result.Failed)
	require.Equal(t, gitops.ActionFailed, o.get("held").Action)
	require.True(t, w.recorded(t)["held"])
}

func TestRun_PreemptionStopsBetweenRequestsAndRecordsWhatWasDone(t *testing.T) {
	w := newWorld()
	f := w.process()
	ctx, cancel := context.WithCancel(t.Context())
	f.fault = func(call string) error {
		if call == "before apply b" {
			cancel()
		}
		return nil
	}
	_, err := gitops.Run(ctx, f, project(), set(t, cm("a", "1"), cm("b", "1"), cm("c", "1")), newObserver())
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, map[string]bool{"a": true, "b": true}, w.names(), "b was in flight and c had not begun")

	f = w.process()
	_, o := run(t, f, project(), set(t, cm("a", "1"), cm("b", "1"), cm("c", "1")))
	require.Equal(t, gitops.ActionUnchanged, o.get("b").Action)
	require.Equal(t, gitops.ActionCreated, o.get("c").Action)
}

func TestRun_DependentsOfAFailedObjectAreSkipped(t *testing.T) {
	w := newWorld()
	w.refused["base"] = true
	result, o := run(t, w.process(), project(), set(t, after("top", "middle"), after("middle", "base"), cm("base", "1"), cm("other", "1")))
	require.Equal(t, 3, result.Failed)
	require.Equal(t, gitops.ActionSkipped, o.get("middle").Action)
	require.Equal(t, "depends on ConfigMap default/base, which could not be applied", o.get("middle").Message)
	require.Equal(t, gitops.ActionSkipped, o.get("top").Action)
	require.Equal(t, gitops.ActionCreated, o.get("other").Action)
}

func TestRun_DryRunsChangeNothing(t *testing.T) {
	for name, mode := range map[string]gitops.DryRun{"client": gitops.DryRunClient, "server": gitops.DryRunServer} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			f := w.process()
			run(t, f, project(), set(t, cm("same", "1"), cm("change", "1"), cm("leave", "1")))
			before, shards := len(w.objects), fmt.Sprint(w.shards)
			p := project()
			p.DryRun = mode
			result, o := run(t, f, p, set(t, cm("same", "1"), cm("change", "2"), cm("new", "1")))
			require.Zero(t, result.Failed)
			for object, message := range map[string]string{
				"change": "dry run: it would be configured", "new": "dry run: it would be created", "leave": "dry run: it would be deleted",
			} {
				require.Equal(t, gitops.ActionSkipped, o.get(object).Action)
				require.Contains(t, o.get(object).Message, message)
			}
			require.Equal(t, gitops.ActionUnchanged, o.get("same").Action)
			require.Len(t, w.objects, before)
			require.Equal(t, shards, fmt.Sprint(w.shards))
			require.Equal(t, mode == gitops.DryRunServer, slices.Contains(f.calls, "apply new"))
		})
	}
}

const widgets = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.example.com},
  spec: {group: example.com, names: {kind: Widget}}}`

func TestRun_DefinitionsComeFirstAndAreAwaited(t *testing.T) {
	w := newWorld()
	f := w.process()
	widget := `{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}`
	result, o := run(t, f, project(), set(t, widget, widgets))
	require.Zero(t, result.Failed, "%v", o.newest)
	require.Less(t, slices.Index(f.calls, "apply widgets.example.com"), slices.Index(f.calls, "apply w"))
	require.Equal(t, "default", o.get("w").ID.Namespace)
	require.Equal(t, gitops.ActionCreated, o.get("widgets.example.com").Action, "though it was planned twice")
}

func TestRun_UnreadableInventoryStopsEverything(t *testing.T) {
	w := newWorld()
	f := w.process()
	f.fault = func(string) error { return gitops.ErrUnavailable }
	_, err := gitops.Run(t.Context(), f, project(), set(t, cm("a", "1")), newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	require.Equal(t, []string{"load"}, f.calls)
}

func TestRun_InventoryThatCannotBeSavedIsNotSavedAgain(t *testing.T) {
	w := newWorld()
	f := w.process()
	f.fault = func(call string) error {
		if call == "before save" {
			return gitops.ErrUnavailable
		}
		return nil
	}
	_, err := gitops.Run(t.Context(), f, project(), set(t, cm("a", "1")), newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	require.Equal(t, []string{"load", "resolve", "save"}, f.calls, "what is left is for the next load")
}

func TestRun_AnotherDefaultNamespaceMovesEverything(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := project()
	run(t, f, p, set(t, cm("a", "1")))
	p.DefaultNamespace = "elsewhere"
	run(t, f, p, set(t, cm("a", "1")))
	_, old := w.Live(cmID("a"))
	require.False(t, old)
	_, moved := w.Live(inventory.ID{GroupKind: cmID("a").GroupKind, Namespace: "elsewhere", Name: "a"})
	require.True(t, moved)
}

func TestRun_PruneOffKeepsTheRecordForWhenItIsOn(t *testing.T) {
	w := newWorld()
	f := w.process()
	p := project()
	run(t, f, p, set(t, cm("a", "1"), cm("b", "1")))
	p.Prune = false
	result, _ := run(t, f, p, set(t, cm("a", "1")))
	require.Zero(t, result.Failed)
	require.True(t, w.names()["b"])
	p.Prune = true
	_, o := run(t, w.process(), p, set(t, cm("a", "1")))
	require.Equal(t, []string{"b"}, o.removed)
	require.False(t, w.names()["b"])
}

func TestRun_SecondWriterIsNoticed(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("a", "1")))
	run(t, w.process(), project(), set(t, cm("a", "1"), cm("b", "1")))

	_, err := gitops.Run(t.Context(), f, project(), set(t, cm("a", "2")), newObserver())
	require.ErrorIs(t, err, inventory.ErrConflict)
	_, o := run(t, f, project(), set(t, cm("a", "2")))
	require.Equal(t, []string{"b"}, o.removed)
}

func TestRun_ObjectThatReplacedTheOneToDeleteStays(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("first", "1"), cm("leave", "1"), cm("rest", "1")))
	f.fault = func(call string) error {
		if call == "before remove first" {
			live, _ := w.Live(cmID("leave"))
			w.remove(cmID("leave"))
			w.put(live.Object.Unstructured(), inventory.Hash{9}, false)
		}
		return nil
	}
	seen := w.objects[cmID("leave")]
	_, o := run(t, f, project(), set(t, cm("rest", "1")))
	require.Equal(t, gitops.Remove{
		ID: cmID("leave"), UID: seen.UID, ResourceVersion: seen.ResourceVersion, Owner: owner, Propagation: "Background",
	}, f.removes[1])
	require.Contains(t, w.names(), "leave", "it is another object")
	require.Equal(t, gitops.ActionPruned, o.get("leave").Action)
}

func TestRun_ObjectOnRecordMayNotBeSeenYetWhenItIsToStay(t *testing.T) {
	w := newWorld()
	f := w.process()
	keep := `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {cli-utils.sigs.k8s.io/on-remove: keep}}}`
	run(t, f, project(), set(t, keep, cm("rest", "1")))
	live := w.objects[cmID("a")]
	live.Object = nil // as after an apply of a moment ago
	w.objects[cmID("a")] = live
	run(t, f, project(), set(t, cm("rest", "1")))
	require.Contains(t, w.names(), "a")
}

func TestRun_CrashWhilePruningAppliesNothingAgain(t *testing.T) {
	w := newWorld()
	run(t, w.process(), project(), set(t, cm("change", "1"), cm("leave", "1")))
	f := w.process()
	crashed := false
	f.fault = func(call string) error {
		if crashed = crashed || call == "before remove leave"; crashed {
			return gitops.ErrUnavailable
		}
		return nil
	}
	_, err := gitops.Run(t.Context(), f, project(), set(t, cm("change", "2")), newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	f = w.process()
	run(t, f, project(), set(t, cm("change", "2")))
	require.Zero(t, f.sent("apply change"))
	require.NotContains(t, w.names(), "leave")
}

func TestRun_DependentsOfAnUnhealthyObjectAreSkipped(t *testing.T) {
	rules := &countedRules{} // calls every Deployment failed
	p := project()
	p.Health = rules
	top := `{apiVersion: v1, kind: ConfigMap, metadata: {name: top, annotations: {config.kubernetes.io/depends-on: apps/namespaces/default/Deployment/app}}}`
	result, o := run(t, newWorld().process(), p, set(t, top, deployment))
	require.Equal(t, 1, result.Failed)
	require.Equal(t, gitops.ActionSkipped, o.get("top").Action)
	require.Equal(t, "depends on Deployment default/app, which is not healthy: says the rule", o.get("top").Message)
}

func TestRun_DryRunForgetsNothing(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("gone", "1"), cm("rest", "1")))
	w.remove(cmID("gone"))
	p := project()
	p.DryRun = gitops.DryRunServer
	_, o := run(t, f, p, set(t, cm("rest", "1")))
	require.Empty(t, o.removed)
	require.True(t, w.recorded(t)["gone"])
}

func TestRun_ObjectInAVersionThatIsNotServedIsNotPruned(t *testing.T) {
	for name, metadata := range map[string]string{"its namespace is named": "{name: w, namespace: home}", "it is not": "{name: w}"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.kinds[schema.GroupKind{Group: "example.com", Kind: "Widget"}] = true
			f := w.process()
			widget := `{apiVersion: example.com/v1, kind: Widget, metadata: ` + metadata + `}`
			run(t, f, project(), set(t, widget))
			result, o := run(t, f, project(), set(t, strings.Replace(widget, "/v1", "/v2", 1)))
			require.Equal(t, 1, result.Failed)
			require.Empty(t, o.removed)
			require.True(t, w.recorded(t)["w"])
			require.Contains(t, w.names(), "w")
		})
	}
}

func TestRun_ObjectThatIsNotSeenIsNotForgottenBeforeTheAPIServerSaysSo(t *testing.T) {
	w := newWorld()
	home := `{apiVersion: v1, kind: Namespace, metadata: {name: home}}`
	run(t, w.process(), project(), set(t, cm("late", "1"), cm("gone", "1"), cm("rest", "1"), home))
	f := w.process()
	f.fault = func(call string) error {
		if call == "after read home" || call == "before read home" {
			return &gitops.KindError{Kind: gitops.ErrNoNamespace, Err: gitops.ErrNoNamespace} // as the API server says of a namespace
		}
		return nil
	}
	f.hidden = map[inventory.ID]gitops.Live{cmID("late"): w.objects[cmID("late")]}
	w.remove(cmID("late"))
	w.remove(cmID("gone"))
	w.remove(inventory.ID{GroupKind: schema.GroupKind{Kind: "Namespace"}, Name: "home"})
	result, o := run(t, f, project(), set(t, cm("rest", "1")))
	require.ElementsMatch(t, []string{"gone", "home"}, o.removed)
	require.Equal(t, map[string]bool{"late": true, "rest": true}, w.recorded(t))
	require.Equal(t, 1, result.Waiting, "another run is worth while")

	w.objects[cmID("late")], f.hidden = f.hidden[cmID("late")], nil
	_, o = run(t, f, project(), set(t, cm("rest", "1")))
	require.Equal(t, gitops.ActionPruned, o.get("late").Action)
	require.Equal(t, map[string]bool{"rest": true}, w.recorded(t))
}

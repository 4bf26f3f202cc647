package gitops_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kas-agentk/kas/gitops"
	"github.com/kas-agentk/kas/inventory"
)

// edit changes a ConfigMap as somebody else does: fields are not ours any more.
func (w *world) edit(t *testing.T, name string) {
	t.Helper()
	live, ok := w.Live(cmID(name))
	require.True(t, ok)
	w.put(live.Object.Unstructured(), inventory.Hash{9}, false)
}

// sent is how often requests of this name were made.
func (f *fakeCluster) sent(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

// loud is an observer that can be waited for.
type loud struct {
	*observer
	heard chan struct{}
}

func (l *loud) Object(s gitops.ObjectStatus) {
	l.observer.Object(s)
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

// await waits until the object's status is as wanted.
func (l *loud) await(t *testing.T, name string, wanted func(gitops.ObjectStatus) bool) {
	t.Helper()
	for !wanted(l.get(name)) {
		select {
		case <-l.heard:
		case <-t.Context().Done():
			t.Fatal("not so until the end of the test")
		}
	}
}

// countedRules call every Deployment failed.
type countedRules struct{ asked int }

func (r *countedRules) Covers(kind schema.GroupKind) bool { return kind.Kind == "Deployment" }

func (r *countedRules) Judge(u *unstructured.Unstructured) (gitops.Health, string, bool) {
	if u.GetKind() != "Deployment" {
		return 0, "", false
	}
	r.asked++
	return gitops.HealthFailed, "says the rule", true
}

// synced runs the engine and watches what it did.
func synced(t *testing.T, p gitops.Project, docs ...string) (*fakeCluster, *loud, *watching) {
	t.Helper()
	f := newWorld().process()
	result, quiet := run(t, f, p, set(t, docs...))
	require.Zero(t, result.Failed)
	o := &loud{observer: quiet, heard: make(chan struct{}, 1)}
	watching := watch(t, f, p, result, o)
	<-watching.told
	f.mu.Lock()
	f.calls = nil
	f.mu.Unlock()
	return f, o, watching
}

func TestRun_HealsWhileItWaitsForWhatIsDependedOn(t *testing.T) {
	const top = `{apiVersion: v1, kind: ConfigMap, metadata: {name: top, annotations: {config.kubernetes.io/depends-on: apps/namespaces/default/Deployment/app}}}`
	f := newWorld().process()
	o := &loud{observer: newObserver(), heard: make(chan struct{}, 1)}
	heals := &watching{healed: make(chan gitops.ObjectStatus, 1)}
	p := project()
	p.Heals = heals
	desired := set(t, deployment, cm("other", "1"), top)
	ended := make(chan error, 1)
	var result gitops.Result
	go func() {
		var err error
		result, err = gitops.Run(t.Context(), f, p, desired, o)
		ended <- err
	}()
	o.await(t, "other", func(s gitops.ObjectStatus) bool { return s.Action == gitops.ActionCreated })
	f.edit(t, "other")
	require.Equal(t, "other", (<-heals.healed).ID.Name)
	require.False(t, f.names()["top"], "still waited for")
	roll(t, f.world, inventory.ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Namespace: "default", Name: "app"}, 1)
	require.NoError(t, <-ended)
	require.Equal(t, gitops.ActionCreated, o.get("top").Action)
	require.Zero(t, result.Failed)

	// All of it is on record, and what Watch is given is as the heal left it.
	f.calls = nil
	watching := watch(t, f, p, result, o)
	<-watching.told
	watching.stop()
	again, _ := run(t, f.process(), p, desired)
	require.Zero(t, again.Failed)
	require.Empty(t, f.calls)
}

func TestRun_APIServerThatGoesAwayWhileItWaitsEndsIt(t *testing.T) {
	const top = `{apiVersion: v1, kind: ConfigMap, metadata: {name: top, annotations: {config.kubernetes.io/depends-on: apps/namespaces/default/Deployment/app}}}`
	f := newWorld().process()
	o := &loud{observer: newObserver(), heard: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	desired := set(t, deployment, cm("other", "1"), top)
	var away atomic.Bool
	f.fault = func(call string) error {
		if away.Load() && call == "before apply other" {
			return gitops.ErrUnavailable
		}
		return nil
	}
	go func() {
		_, err := gitops.Run(t.Context(), f, project(), desired, o)
		ended <- err
	}()
	o.await(t, "other", func(s gitops.ObjectStatus) bool { return s.Action == gitops.ActionCreated })
	away.Store(true)
	f.edit(t, "other")
	require.ErrorIs(t, <-ended, gitops.ErrUnavailable)
}

func TestWatch_HealsAtOnceAndRecordsItSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o, watching := synced(t, project(), cm("changed", "1"), cm("deleted", "1"), cm("rest", "1"))

		f.edit(t, "changed")
		require.Equal(t, gitops.ActionConfigured, (<-watching.healed).Action)
		f.remove(cmID("deleted"))
		healed := <-watching.healed
		require.Equal(t, gitops.ActionCreated, healed.Action)
		require.Nil(t, healed.Contest)
		require.True(t, f.names()["deleted"])

		watching.step(time.Second)
		synctest.Wait()
		watching.stop()
		require.Equal(t, gitops.HealthCurrent, o.get("deleted").Health)
		f.calls = slices.DeleteFunc(f.calls, func(c string) bool { return c == "save" })
		require.Equal(t, []string{"apply changed", "apply deleted"}, f.calls)
		// The record fits what is live now.
		f.calls = nil
		run(t, f, project(), set(t, cm("changed", "1"), cm("deleted", "1"), cm("rest", "1")))
		require.Equal(t, []string{"resolve"}, f.calls)
	})
}

func TestWatch_HealThatIsNotRecordedYetIsWhenAnotherRunPreempts(t *testing.T) {
	f, _, watching := synced(t, project(), cm("a", "1"))
	f.remove(cmID("a"))
	<-watching.healed
	require.Zero(t, f.sent("save"))
	watching.stop()
	require.Equal(t, 1, f.sent("save"))
}

func TestWatch_CrashBeforeAHealIsRecordedCostsOneApply(t *testing.T) {
	f, _, watching := synced(t, project(), cm("a", "1"), cm("b", "1"))
	f.mu.Lock()
	f.fault = func(call string) error {
		if call == "before save" {
			return gitops.ErrUnavailable
		}
		return nil
	}
	f.mu.Unlock()
	// What heals leaves another trace than the apply that the record knows.
	f.salt = []byte{1}
	f.remove(cmID("a"))
	<-watching.healed
	watching.stop()
	require.True(t, f.recorded(t)["a"])

	next := f.process()
	run(t, next, project(), set(t, cm("a", "1"), cm("b", "1")))
	require.Equal(t, 1, next.sent("apply a"))
	require.Zero(t, next.sent("apply b"))
}

func TestWatch_ManyDeletedObjectsAreHealedTogether(t *testing.T) {
	const n = 300
	var docs []string
	for i := range n {
		docs = append(docs, cm(fmt.Sprintf("cm-%03d", i), "1"))
	}
	p := project()
	p.Parallel = 16
	f, _, watching := synced(t, p, docs...)
	for i := range n {
		f.remove(cmID(fmt.Sprintf("cm-%03d", i)))
	}
	for range n {
		<-watching.healed
	}
	require.Len(t, f.names(), n)
	watching.stop()
	require.LessOrEqual(t, f.sent("save"), 2)
}

// pace is how long after a heal the next one comes at the earliest.
var pace = []time.Duration{0, 0, 5 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second}

const tick = 20 * time.Millisecond

// step steps the clock when everybody waits, in a bubble of synctest: a timer that is being
// set while the clock is stepped would be late by that step.
func (w *watching) step(d time.Duration) {
	synctest.Wait()
	w.clock.Step(d)
}

// quarrel has somebody undo what the engine does to an object after every heal, for
// as many times as pace says, and returns the object's last status.
func quarrel(t *testing.T, f *fakeCluster, watching *watching, name string, undo func()) (last gitops.ObjectStatus) {
	t.Helper()
	for n, wait := range pace {
		undo()
		if wait > 0 {
			watching.step(wait - time.Millisecond)
			// That another one is healed shows that the first one was looked at.
			other := fmt.Sprintf("other-%d", n)
			f.edit(t, other)
			require.Equal(t, other, (<-watching.healed).ID.Name, "at once")
			require.Equal(t, n, f.sent("apply "+name))
			watching.step(tick)
		}
		last = <-watching.healed
		require.Equal(t, name, last.ID.Name)
		require.Equal(t, n >= 2, last.Contest != nil, "heal %d", n+1)
	}
	return last
}

// fight are the documents for a quarrel.
func fight(name string) []string {
	docs := []string{cm(name, "1")}
	for n := range pace {
		docs = append(docs, cm(fmt.Sprintf("other-%d", n), "1"))
	}
	return docs
}

func TestWatch_QuarrelIsSlowedDownAndNobodyElseIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o, watching := synced(t, project(), fight("fought")...)
		f.contenders = map[string][]gitops.Contender{"fought": {{Manager: "hpa-lookalike", Fields: []string{".data.k"}}}}

		last := quarrel(t, f, watching, "fought", func() { f.edit(t, "fought") })
		require.Equal(t, f.contenders["fought"], last.Contest.Contenders)
		require.Equal(t, len(pace), last.Contest.Heals)
		require.Equal(t, len(pace)-2, f.sent("contenders fought"), "from the third heal on")
		o.await(t, "fought", func(s gitops.ObjectStatus) bool { return s.Contest != nil && s.Contest.Heals == len(pace) })
		require.Contains(t, o.get("fought").Message, "agentk and hpa-lookalike both set .data.k, healed 6 times: take the field out of the manifest")

		require.Equal(t, int64(1), watching.contested.Load())

		watching.step(5*time.Minute - time.Second)
		watching.step(time.Second + tick)
		o.await(t, "fought", func(s gitops.ObjectStatus) bool { return s.Contest == nil && s.Message == "" })
		require.Zero(t, watching.contested.Load())
		f.edit(t, "fought")
		require.Nil(t, (<-watching.healed).Contest, "at once, and as if nothing had been")
	})
}

// TestWatch_QuarrelCostsFewWrites has somebody strike back at once for ten minutes.
func TestWatch_QuarrelCostsFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, watching := synced(t, project(), cm("fought", "1"), cm("rest", "1"))
		f.salt = []byte{1} // each apply leaves another trace than what is on record
		began, undone := watching.clock.Now(), true
		var perMinute []int
		f.edit(t, "fought")
		for minute := 1; minute <= 10; minute++ {
			before := f.sent("apply fought") + f.sent("save")
			for watching.clock.Since(began) < time.Duration(minute)*time.Minute {
				select {
				case <-watching.healed:
					undone = false
				case <-time.After(time.Millisecond): // when everybody waits, in this bubble
					watching.clock.Step(time.Second)
				}
				if !undone {
					f.edit(t, "fought")
					undone = true
				}
			}
			perMinute = append(perMinute, f.sent("apply fought")+f.sent("save")-before)
		}
		t.Logf("writes in each minute: %v, of these %d of the inventory", perMinute, f.sent("save"))
		require.LessOrEqual(t, perMinute[0], 6)
		for _, n := range perMinute[1:] {
			require.LessOrEqual(t, n, 2)
			require.Positive(t, n)
		}
		require.LessOrEqual(t, f.sent("save"), 2, "before it was taken for a quarrel")

		// Once it is over, the last heal is put on record.
		saved := f.sent("save")
		for f.sent("save") == saved {
			select {
			case <-watching.healed:
			case <-time.After(time.Millisecond):
				watching.clock.Step(time.Second)
			}
		}
		watching.stop()
		next := f.process()
		run(t, next, project(), set(t, cm("fought", "1"), cm("rest", "1")))
		require.Zero(t, next.sent("apply fought"))
	})
}

func TestWatch_HealOfAQuarrelIsOnRecordWhenWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, watching := synced(t, project(), cm("fought", "1"))
		for n := range byte(3) {
			f.mu.Lock()
			f.salt = []byte{1 + n}
			f.mu.Unlock()
			f.edit(t, "fought")
			for healed := false; !healed; {
				select {
				case s := <-watching.healed:
					healed = true
					require.Equal(t, n == 2, s.Contest != nil)
				case <-time.After(time.Millisecond):
					watching.clock.Step(time.Second) // the first ones are put on record as well
				}
			}
		}
		watching.stop()
		next := f.process()
		next.salt = f.salt
		run(t, next, project(), set(t, cm("fought", "1")))
		require.Zero(t, next.sent("apply fought"))
	})
}

func TestWatch_ObjectThatIsDeletedAgainAndAgainIsAContestWithoutContenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o, watching := synced(t, project(), fight("deleted")...)
		last := quarrel(t, f, watching, "deleted", func() { f.remove(cmID("deleted")) })
		require.Empty(t, last.Contest.Contenders)
		o.await(t, "deleted", func(s gitops.ObjectStatus) bool { return s.Contest != nil && s.Contest.Heals == len(pace) })
		require.Contains(t, o.get("deleted").Message, "somebody keeps deleting the object")
	})
}

func TestWatch_QuarrelIsRememberedByTheNextRunAndWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := project()
		p.Healing = gitops.NewHealing()
		docs := fight("fought")
		f, _, watching := synced(t, p, docs...)
		quarrel(t, f, watching, "fought", func() { f.edit(t, "fought") })
		f.edit(t, "fought")
		watching.stop()
		f.calls = nil

		docs[1] = cm("other-0", "2")
		result, o := run(t, f, p, set(t, docs...))
		require.Equal(t, 1, f.sent("apply other-0"))
		require.Zero(t, f.sent("apply fought"), "a commit about something else is no reason to strike again")
		require.NotNil(t, o.get("fought").Contest)
		require.Equal(t, gitops.ActionUnchanged, o.get("fought").Action)
		next := watchAt(t, watching.clock, f, p, result, o)
		<-next.told
		next.step(31 * time.Second)
		require.Equal(t, "fought", (<-next.healed).ID.Name)

		next.stop()
		docs[0] = cm("fought", "2")
		_, o = run(t, f, p, set(t, docs...))
		require.Equal(t, 2, f.sent("apply fought"), "a commit that changes it is applied")
		require.Nil(t, o.get("fought").Contest)
	})
}

func TestWatch_DriftThatTheManifestSaysToIgnore(t *testing.T) {
	ignored := func(name, value string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, annotations: {agent.gitlab.com/drift: ignore}}, data: {k: %q}}`, name, value)
	}
	f, o, watching := synced(t, project(), ignored("changed", "1"), ignored("deleted", "1"), cm("rest", "1"))
	f.edit(t, "changed")
	f.remove(cmID("deleted"))
	f.edit(t, "rest")
	require.Equal(t, "rest", (<-watching.healed).ID.Name)
	o.await(t, "deleted", func(s gitops.ObjectStatus) bool { return s.Health == gitops.HealthNotFound })
	require.Contains(t, o.get("changed").Message, "somebody has changed the object, which is left at that")
	require.Contains(t, o.get("deleted").Message, "somebody has deleted the object, which is left at that")
	watching.stop()
	require.Empty(t, watching.healed)

	f.calls = nil
	_, again := run(t, f, project(), set(t, ignored("changed", "1"), ignored("deleted", "1"), cm("rest", "1")))
	require.Equal(t, []string{"resolve"}, f.calls, "another run leaves it at that, too")
	require.Equal(t, gitops.ActionUnchanged, again.get("deleted").Action)
	run(t, f, project(), set(t, ignored("changed", "2"), ignored("deleted", "2"), cm("rest", "1")))
	require.Equal(t, 1, f.sent("apply changed"), "what changes in the repository is applied")
	require.Equal(t, 1, f.sent("apply deleted"))
}

func TestPlan_OptOutThatNobodyUnderstandsFailsTheObject(t *testing.T) {
	annotated := func(name, value string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {%s: %q}}}`, name, value)
	}
	for _, row := range []struct{ name, doc, want string }{
		{"drift is spelled otherwise", annotated("agent.gitlab.com/drift", "ignored"), `the only value is "ignore", not "ignored"`},
		{"a field is no pointer", annotated("agent.gitlab.com/ignore-fields", "/spec/replicas, spec.image"), `"spec.image" is no JSON pointer`},
		{"a list of fields ends with a comma", annotated("agent.gitlab.com/ignore-fields", "/spec/replicas,"), `"" is no JSON pointer`},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newWorld().process()
			result, o := run(t, f, project(), set(t, row.doc))
			require.Equal(t, 1, result.Failed)
			require.Contains(t, o.get("a").Message, row.want)
			require.Equal(t, "f0.yaml:1", o.get("a").Position.String())
		})
	}
}

func TestRun_FieldsToYieldComeFromRulesAndTheAnnotation(t *testing.T) {
	p := project()
	p.Ignore = []gitops.IgnoreRule{
		{Kind: "ConfigMap", Name: "a", Fields: []string{"/data/a"}},
		{Group: "apps", Kind: "ConfigMap", Fields: []string{"/never"}},
		{Namespace: "default", Fields: []string{"/data/all"}},
	}
	f := newWorld().process()
	run(t, f, p, set(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {agent.gitlab.com/ignore-fields: "/data/x, /data/y"}}}`,
		cm("b", "1")))
	require.Equal(t, []string{"/data/a", "/data/all", "/data/x", "/data/y"}, f.yielded["a"])
	require.Equal(t, []string{"/data/all"}, f.yielded["b"])

	f.calls = nil
	run(t, f, p, set(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {agent.gitlab.com/ignore-fields: "/data/x, /data/y"}}}`,
		cm("b", "1")))
	require.Equal(t, []string{"resolve"}, f.calls)
	p.Ignore = p.Ignore[:2]
	run(t, f, p, set(t,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {agent.gitlab.com/ignore-fields: "/data/x, /data/y"}}}`,
		cm("b", "1")))
	require.Equal(t, 1, f.sent("apply a"), "a rule is gone: the field is ours again")
	require.Equal(t, 1, f.sent("apply b"))
}

func TestWatch_MarkThatWasRemovedIsPutBackAndAnotherIsLeft(t *testing.T) {
	f, _, watching := synced(t, project(), cm("unmarked", "1"), cm("taken", "1"))
	mark := func(name, owner string, ownership inventory.Hash) {
		live, _ := f.Live(cmID(name))
		u := live.Object.Unstructured()
		u.SetAnnotations(map[string]string{gitops.OwnerAnnotation: owner})
		f.put(u, ownership, false)
	}
	mark("unmarked", "", inventory.Hash{9})
	require.Equal(t, "unmarked", (<-watching.healed).ID.Name)
	live, _ := f.Live(cmID("unmarked"))
	require.Equal(t, owner, live.Owner)
	watching.stop()

	// So does a run, also where nothing was watching.
	mark("unmarked", "", inventory.Hash{9})
	result, _ := run(t, f, project(), set(t, cm("unmarked", "1"), cm("taken", "1")))
	require.Zero(t, result.Failed)
	require.Equal(t, 2, f.sent("apply unmarked"))

	// Fields that are not ours at all make it somebody else's object.
	mark("taken", "9-9", inventory.Hash{})
	result, _ = run(t, f, project(), set(t, cm("unmarked", "1"), cm("taken", "1")))
	require.Equal(t, 1, result.Failed)
	require.Zero(t, f.sent("apply taken"))
}

func TestWatch_LeavesToARunWhatItCannotHeal(t *testing.T) {
	f, _, watching := synced(t, project(), cm("refused", "1"), cm("taken", "1"))
	f.mu.Lock()
	f.refused["refused"] = true
	f.mu.Unlock()
	f.edit(t, "refused")
	require.Equal(t, []inventory.ID{cmID("refused")}, (<-watching.told).Drifted)
	require.Equal(t, int64(1), watching.refused.Load())
	live, _ := f.Live(cmID("taken"))
	u := live.Object.Unstructured()
	u.SetAnnotations(map[string]string{gitops.OwnerAnnotation: "9-9"})
	f.put(u, inventory.Hash{}, false)
	require.Equal(t, []inventory.ID{cmID("refused"), cmID("taken")}, (<-watching.told).Drifted)
	require.Zero(t, f.sent("apply taken"))
}

func TestWatch_ObjectThatIsBeingDeletedIsHealedWhenItIsGone(t *testing.T) {
	f, _, watching := synced(t, project(), cm("held", "1"), cm("rest", "1"))
	live, _ := f.Live(cmID("held"))
	u := live.Object.Unstructured()
	now := metav1.Now()
	u.SetDeletionTimestamp(&now)
	f.put(u, inventory.Hash{9}, false)
	f.edit(t, "rest")
	require.Equal(t, "rest", (<-watching.healed).ID.Name)
	require.Zero(t, f.sent("apply held"))
	f.remove(cmID("held"))
	require.Equal(t, "held", (<-watching.healed).ID.Name)
}

func TestWatch_ObjectsWaitForTheirNamespace(t *testing.T) {
	f, _, watching := synced(t, project(),
		`{apiVersion: v1, kind: Namespace, metadata: {name: home}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: home}}`, cm("rest", "1"))
	home := inventory.ID{GroupKind: schema.GroupKind{Kind: "Namespace"}, Name: "home"}
	live, _ := f.Live(home)
	u := live.Object.Unstructured()
	now := metav1.Now()
	u.SetDeletionTimestamp(&now)
	f.put(u, live.Ownership, false)
	a := cmID("a")
	a.Namespace = "home"
	f.remove(a)
	f.edit(t, "rest")
	require.Equal(t, "rest", (<-watching.healed).ID.Name)
	require.Zero(t, f.sent("apply a"), "the API server would refuse it")
	f.remove(home)
	require.Equal(t, "home", (<-watching.healed).ID.Name)
	require.Equal(t, "a", (<-watching.healed).ID.Name)
}

func TestWatch_NewDigestOfTheSameContentIsNotComputedTwice(t *testing.T) {
	rules := &countedRules{}
	p := project()
	p.Health = rules
	f := newWorld().process()
	result, o := run(t, f, p, set(t, deployment, cm("a", "1")))
	require.Equal(t, gitops.HealthFailed, o.get("app").Health)
	require.Equal(t, "says the rule", o.get("app").Message)
	watching := watch(t, f, p, result, o)
	require.False(t, (<-watching.told).Ready)
	before := rules.asked
	id := o.get("app").ID
	f.changed(id)
	f.edit(t, "a")
	<-watching.healed
	watching.stop()
	require.Equal(t, before, rules.asked, "nothing about it has changed")
}

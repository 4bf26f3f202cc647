package gitops_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/gitops"
)

// patience is how long a test waits for what comes at once.
const patience = time.Minute

// late is the project with Project.RecordLate.
func late() gitops.Project {
	p := project()
	p.RecordLate = true
	return p
}

// unwatched is a Watch of a result whose time has passed when it begins.
func unwatched(t *testing.T, f *fakeCluster, p gitops.Project, r gitops.Result, o gitops.Observer) error {
	t.Helper()
	ended, end := context.WithCancel(t.Context())
	end()
	return gitops.Watch(ended, f, p, r, o, gitops.WatchConfig{})
}

func TestRecordLate_WatchRecordsAtOnceWhatRunDid(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("a", "1"), cm("b", "1"), cm("c", "1")))
	f.calls = nil
	d := set(t, cm("a", "2"), cm("b", "1"))
	result, o := run(t, f, late(), d)
	require.Equal(t, []string{"resolve", "apply a", "save", "remove c"}, f.calls, "what was applied is on record before anything is deleted")
	require.True(t, w.recorded(t)["c"])

	written := make(chan struct{}, 1)
	f.fault = func(call string) error {
		if call == "after save" {
			written <- struct{}{}
		}
		return nil
	}
	watching := watch(t, f, late(), result, o)
	select { // no clock has to move
	case <-written:
	case <-time.After(patience):
		t.Fatal("not recorded")
	}
	require.True(t, (<-watching.told).Ready)
	watching.stop()
	require.False(t, w.recorded(t)["c"])

	next := w.process()
	_, o = run(t, next, project(), d)
	require.Equal(t, []string{"load", "resolve"}, next.calls)
	require.Equal(t, gitops.ActionUnchanged, o.get("a").Action)
}

func TestRecordLate_WatchThatEndsAtOnceRecordsAllTheSame(t *testing.T) {
	w := newWorld()
	f := w.process()
	for i := range 20 { // whichever comes first
		d := set(t, cm("a", strconv.Itoa(i)))
		result, o := run(t, f, late(), d)
		require.NoError(t, unwatched(t, f, late(), result, o))
		next := w.process()
		run(t, next, project(), d)
		require.Equal(t, []string{"load", "resolve"}, next.calls)
	}
}

func TestRecordLate_DeathBeforeItIsRecordedAppliesOnceMore(t *testing.T) {
	w := newWorld()
	run(t, w.process(), project(), set(t, cm("a", "1")))
	d := set(t, cm("a", "2"), cm("new", "1"))
	f := w.process()
	f.salt = []byte("as an apply at another time")
	run(t, f, late(), d)
	require.True(t, w.recorded(t)["new"], "before it was sent")

	next := w.process()
	next.salt = f.salt
	_, o := run(t, next, late(), d)
	require.Equal(t, []string{"load", "resolve", "apply a", "apply new"}, next.calls)
	require.Empty(t, o.get("a").Message)
	// And what is meant to be as it was before is so, too.
	_, o = run(t, w.process(), late(), set(t, cm("a", "1"), cm("new", "1")))
	require.Equal(t, gitops.ActionConfigured, o.get("a").Action)
}

func TestRecordLate_NextRunRecordsWhereNothingWatched(t *testing.T) {
	w := newWorld()
	f := w.process()
	d := set(t, cm("a", "1"))
	run(t, f, late(), d)
	f.calls = nil
	run(t, f, project(), d)
	require.Equal(t, []string{"resolve", "save"}, f.calls)
}

func TestRecordLate_RunThatIsStoppedRecordsItself(t *testing.T) {
	w := newWorld()
	f := w.process()
	run(t, f, project(), set(t, cm("a", "1"), cm("b", "1")))
	f.fault = func(call string) error {
		if call == "before apply b" {
			return gitops.ErrUnavailable
		}
		return nil
	}
	d := set(t, cm("a", "2"), cm("b", "2"))
	_, err := gitops.Run(t.Context(), f, late(), d, newObserver())
	require.ErrorIs(t, err, gitops.ErrUnavailable)
	next := w.process()
	run(t, next, project(), d)
	require.Equal(t, []string{"load", "resolve", "apply b", "save"}, next.calls)
}

func TestRecordLate_InventoryThatCannotBeWrittenEndsTheWatch(t *testing.T) {
	w := newWorld()
	f := w.process()
	result, o := run(t, f, late(), set(t, cm("a", "1")))
	f.fault = func(call string) error {
		if call == "before save" {
			return errRefused
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := gitops.Watch(ctx, f, late(), result, o, gitops.WatchConfig{})
	require.ErrorIs(t, err, errRefused)
}

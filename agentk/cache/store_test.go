package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/internal/objects"
)

// fill returns a store that some informer has listed.
func fill(c clock.PassiveClock, list ...entry) (*store, *resource) {
	s := newStore(c, pods, true, false)
	r := &resource{mapping: pods, store: s}
	s.adopt(r)
	s.replace(r, list, "1", nil)
	return s, r
}

func pod(namespace, name, version string) *record {
	return &record{objects.Object{Namespace: namespace, Name: name, ResourceVersion: version}}
}

func names(list []*objects.Object) []string {
	var names []string
	for _, o := range list {
		names = append(names, o.Namespace+"/"+o.Name+"@"+o.ResourceVersion)
	}
	return names
}

func TestStore_ListsInOrderWhateverCameWhen(t *testing.T) {
	s, r := fill(clock.RealClock{}, pod("b", "x", "1"), pod("a", "z", "1"), pod("a-b", "x", "1"), pod("a", "y", "1"), pod("", "n", "1"))
	list, first := s.list("")
	require.Equal(t, []string{"/n@1", "a/y@1", "a/z@1", "a-b/x@1", "b/x@1"}, names(list))
	require.True(t, s.put(r, pod("a", "z", "2")))
	require.True(t, s.put(r, pod("a", "yy", "3")))
	require.True(t, s.remove(r, objects.Key{Namespace: "a", Name: "y"}, "4"))
	list, second := s.list("a")
	require.Equal(t, []string{"a/yy@3", "a/z@2"}, names(list))
	require.Equal(t, first.Epoch, second.Epoch)
	require.Equal(t, first.Sequence+3, second.Sequence)
	require.Equal(t, "3", s.get(objects.Key{Namespace: "a", Name: "yy"}).ResourceVersion)
	require.Nil(t, s.get(objects.Key{Namespace: "a", Name: "y"}))
	none, _ := s.list("a-")
	require.Empty(t, none)
}

func TestStore_TellsChangesOnce(t *testing.T) {
	s, r := fill(clock.RealClock{}, pod("a", "x", "1"))
	_, p := s.list("")
	require.False(t, closed(s.after(p)))
	changed := s.after(p)
	require.False(t, s.put(r, pod("a", "x", "1")), "it is the same")
	require.False(t, s.remove(r, objects.Key{Name: "none"}, "1"))
	require.False(t, closed(changed))
	require.True(t, s.put(r, pod("a", "x", "2")))
	require.True(t, closed(changed))
	require.True(t, closed(s.after(p)))
	require.True(t, s.remove(r, objects.Key{Namespace: "a", Name: "x"}, "3"))

	changes, after, known := s.since(p)
	require.True(t, known)
	require.Len(t, changes, 2)
	require.Equal(t, "1", changes[0].Before.ResourceVersion)
	require.Equal(t, "2", changes[0].After.ResourceVersion)
	require.Same(t, changes[0].After, changes[1].Before)
	require.Nil(t, changes[1].After)
	rest, again, known := s.since(after)
	require.True(t, known)
	require.Empty(t, rest)
	require.Equal(t, after, again)
	require.False(t, closed(s.after(after)))
	require.Equal(t, "3", s.freshness().ResourceVersion)

	for _, strange := range []objects.Position{
		{}, {Epoch: "other", Sequence: after.Sequence}, {Epoch: after.Epoch, Sequence: after.Sequence + 1},
	} {
		_, _, known = s.since(strange)
		require.False(t, known, "%v", strange)
		require.True(t, closed(s.after(strange)), "%v", strange)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestStore_RelistIsToldAsItsDifference(t *testing.T) {
	s, r := fill(clock.RealClock{}, pod("a", "gone", "1"), pod("a", "same", "1"), pod("a", "changed", "1"))
	before, p := s.list("")
	next := &resource{mapping: pods, store: s}
	s.adopt(next)
	require.False(t, s.put(r, pod("a", "late", "2")), "from an informer that was replaced")
	d := s.replace(next, []entry{pod("a", "same", "1"), pod("a", "changed", "5"), pod("a", "new", "6")}, "7", nil)
	require.Len(t, d.put, 2)
	require.Equal(t, []objects.Key{{Namespace: "a", Name: "gone"}}, d.removed)
	changes, _, known := s.since(p)
	require.True(t, known)
	replayed, err := replay(before, changes)
	require.NoError(t, err)
	now, _ := s.list("")
	require.Equal(t, names(now), names(replayed))
}

func TestStore_OtherVersionOfTheResourceBeginsAnew(t *testing.T) {
	s, _ := fill(clock.RealClock{}, pod("a", "x", "1"))
	_, p := s.list("")
	s.mu.RLock()
	ended := s.ended
	s.mu.RUnlock()
	v2 := *pods
	v2.Resource.Version = "v2"
	next := &resource{mapping: &v2, store: s}
	s.adopt(next)
	converted := pod("a", "x", "1") // which keeps its resource version
	s.replace(next, []entry{converted}, "1", nil)
	require.True(t, closed(ended))
	_, _, known := s.since(p)
	require.False(t, known)
	require.Same(t, &converted.Object, s.get(objects.Key{Namespace: "a", Name: "x"}))
	require.Equal(t, "v2", s.freshness().Version)
}

func TestStore_RecordsOnlyForThoseWhoAsk(t *testing.T) {
	now := testclock.NewFakeClock(time.Now())
	s, r := fill(now, pod("a", "x", "1"))
	version := 1
	change := func() {
		version++
		require.True(t, s.put(r, pod("a", "x", strconv.Itoa(version))))
	}
	change()
	require.False(t, s.log.on, "nobody asks")
	require.Nil(t, s.index)

	_, p := s.list("")
	now.Step(recordAfterList - 1)
	change()
	changes, p, known := s.since(p)
	require.True(t, known)
	require.Len(t, changes, 1)
	now.Step(recordAfterChanges - 1)
	change()
	changes, p, known = s.since(p)
	require.True(t, known)
	require.Len(t, changes, 1)
	now.Step(recordAfterChanges)
	change()
	require.False(t, s.log.on, "nobody asks any more")
	_, p, known = s.since(p)
	require.False(t, known)

	changed := s.after(p)
	now.Step(time.Hour)
	s.trim()
	change()
	change()
	require.True(t, closed(changed))
	changes, _, known = s.since(p)
	require.True(t, known, "somebody has waited for this all the time")
	require.Len(t, changes, 2)

	now.Step(recordAfterChanges)
	s.trim()
	require.False(t, s.log.on)
	s.forget()
	require.Nil(t, s.index)
}

func TestStore_LogIsBounded(t *testing.T) {
	s, r := fill(clock.RealClock{})
	_, p := s.list("")
	for i := range maxLogChanges {
		s.put(r, pod("a", "x", strconv.Itoa(i+2)))
	}
	changes, _, known := s.since(p)
	require.True(t, known)
	require.Len(t, changes, maxLogChanges)
	s.put(r, pod("a", "x", "more"))
	_, _, known = s.since(p)
	require.False(t, known)
	p.Sequence++
	changes, p, known = s.since(p)
	require.True(t, known)
	require.Len(t, changes, maxLogChanges)
	require.Equal(t, uint64(maxLogChanges+1), p.Sequence)

	large := func(version string) *record {
		l := pod("a", "large", version)
		l.JSON = make([]byte, maxLogBytes/3)
		return l
	}
	for i := range 10 {
		s.put(r, large(strconv.Itoa(i+2)))
	}
	require.LessOrEqual(t, s.log.bytes, maxLogBytes)
	require.Less(t, len(s.log.changes), 4)
	size := 0
	for _, c := range s.log.changes {
		size += heldBy(c)
	}
	require.Equal(t, size, s.log.bytes)
}

var errStrange = errors.New("a change does not fit to what was before")

// replay returns what changes make of a list. Each must fit to what was before.
func replay(list []*objects.Object, changes []objects.Change) ([]*objects.Object, error) {
	list = slices.Clone(list)
	for i, c := range changes {
		var key objects.Key
		switch {
		case c.After != nil:
			key = objects.Key{Namespace: c.After.Namespace, Name: c.After.Name}
		case c.Before != nil:
			key = objects.Key{Namespace: c.Before.Namespace, Name: c.Before.Name}
		default:
			return nil, fmt.Errorf("%w: %d is none", errStrange, i)
		}
		at, found := position(list, key)
		if found != (c.Before != nil) || found && list[at].ResourceVersion != c.Before.ResourceVersion {
			return nil, fmt.Errorf("%w: %d of %v", errStrange, i, key)
		}
		list = placed(list, key, c.After)
	}
	return list, nil
}

func TestStore_NoGapAndNoDuplicateInAStorm(t *testing.T) {
	s, r := fill(clock.RealClock{})
	const steps = 30_000
	var read [4]atomic.Uint64
	done := make(chan struct{})
	all, ctx := errgroup.WithContext(t.Context())
	all.Go(func() error {
		defer close(done)
		storm(s, r, steps, func() {
			// Nobody is so far behind that he has to begin anew.
			for i := range read {
				for s.at()-read[i].Load() > maxLogChanges/2 && ctx.Err() == nil {
					runtime.Gosched()
				}
			}
		})
		return nil
	})
	for i := range read {
		all.Go(func() error { return readThrough(s, &read[i], done) })
	}
	require.NoError(t, all.Wait())
}

// at is the newest sequence.
func (s *store) at() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sequence
}

// readThrough follows a store until it is done, and compares.
func readThrough(s *store, read *atomic.Uint64, done <-chan struct{}) (err error) {
	list, p := s.list("")
	for {
		changes, after, known := s.since(p)
		if !known {
			return fmt.Errorf("%w: what came after %d is not known", errStrange, p.Sequence)
		}
		if list, err = replay(list, changes); err != nil {
			return err
		}
		if n := uint64(len(changes)); after.Sequence-p.Sequence != n {
			return fmt.Errorf("%w: %d from %d to %d", errStrange, n, p.Sequence, after.Sequence)
		}
		p = after
		read.Store(p.Sequence)
		// What is listed now and then is what the changes make as well.
		if now, at := s.list(""); at == p && !slices.Equal(names(now), names(list)) {
			return fmt.Errorf("%w: at %d there is %v, not %v", errStrange, p.Sequence, names(now), names(list))
		}
		select {
		case <-s.after(p):
		case <-done:
			if s.at() == p.Sequence {
				return nil
			}
		}
	}
}

// storm makes changes of every sort, by two informers one after the other.
func storm(s *store, r *resource, steps int, pace func()) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range steps {
		if i%500 == 0 {
			pace()
		}
		key := objects.Key{Namespace: strconv.Itoa(random.IntN(3)), Name: strconv.Itoa(random.IntN(50))}
		version := strconv.Itoa(i + 2)
		switch n := random.IntN(1000); {
		case n == 0: // a relist
			r = &resource{mapping: pods, store: s}
			s.adopt(r)
			var list []entry
			for j := range 100 {
				list = append(list, pod(strconv.Itoa(j%3), strconv.Itoa(j/3), fmt.Sprintf("%s-%d", version, j%7)))
			}
			s.replace(r, list, version, nil)
		case n < 400:
			s.remove(r, key, version)
		default:
			s.put(r, pod(key.Namespace, key.Name, version))
		}
	}
}

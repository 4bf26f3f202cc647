package inventory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// flaky is a memory whose writes fail at random: before they take effect, or after,
// when the answer is lost.
type flaky struct {
	*memory
	random *rand.Rand
	// odds of a fault, of a hundred; zero: none.
	odds int
}

func (f *flaky) Put(ctx context.Context, id string, s Shard) (string, error) {
	before, after := f.roll(), f.roll()
	if before {
		return "", errCrash
	}
	rv, err := f.memory.Put(ctx, id, s)
	if err == nil && after {
		return "", errCrash
	}
	return rv, err
}

// roll decides about one fault. Puts come side by side.
func (f *flaky) roll() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(100) < f.odds
}

// model is what a simple process remembers of what it did to an inventory.
type model struct {
	// saved is what the last Save that returned nil wrote.
	saved map[ID]Entry
	// pending is what is in memory.
	pending map[ID]Entry
	// touched since the last such Save: set, changed or deleted.
	touched map[ID]bool
}

// mayHold says whether a stored inventory may hold an entry after a crash: the one
// that was saved, or any that was meant to be since.
func (m *model) check(t *testing.T, loaded map[ID]Entry, seen map[ID]map[Entry]bool) {
	t.Helper()
	for id, e := range m.saved {
		got, ok := loaded[id]
		_, still := m.pending[id]
		switch {
		case !m.touched[id] && (!ok || got != e):
			t.Fatalf("%s was recorded as %v, and is %v, %v", id, e, got, ok)
		case !ok && still:
			t.Fatalf("%s was recorded, only its entry was to change, and it is lost", id)
		}
	}
	for id, e := range loaded {
		if !seen[id][e] {
			t.Fatalf("%s has an entry that nobody made: %v", id, e)
		}
	}
}

func TestInventory_AgainstAModelWithFaultsBetweenTheWrites(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 7))
			store := &flaky{memory: newMemory(), random: random}
			m := model{saved: map[ID]Entry{}, pending: map[ID]Entry{}, touched: map[ID]bool{}}
			seen := map[ID]map[Entry]bool{}
			inv, crashes := load(t, store.memory), 0
			for round := range 30 {
				for range 1 + random.IntN(100) {
					k := id(fmt.Sprintf("d-%05d", random.IntN(1500)))
					m.touched[k] = true
					if random.IntN(4) == 0 {
						inv.Delete(k)
						delete(m.pending, k)
						continue
					}
					e := Entry{Held: random.IntN(10) == 0}
					if random.IntN(2) == 0 {
						e = entry(fmt.Sprint(random.IntN(9)))
					}
					inv.Set(k, e)
					m.pending[k] = e
					if seen[k] == nil {
						seen[k] = map[Entry]bool{}
					}
					seen[k][e] = true
				}
				require.Equal(t, len(m.pending), inv.Len())
				store.odds = 0
				if round%3 == 0 {
					store.odds = 50
				}
				err := inv.Save(t.Context(), store)
				if err == nil {
					require.False(t, inv.Changed())
					m.saved, m.touched = clone(m.pending), map[ID]bool{}
					continue
				}
				require.ErrorIs(t, err, errCrash)
				crashes++
				inv = load(t, store.memory)
				m.check(t, all(inv), seen)
				// What is there twice, because an entry was on its way to another
				// shard, is put right by the next save.
				m.saved, m.pending, m.touched = all(inv), all(inv), map[ID]bool{}
			}
			store.odds = 0
			require.NoError(t, inv.Save(t.Context(), store))
			require.Equal(t, m.pending, all(load(t, store.memory)))
			keys, news := map[string]struct{}{}, store.shards["inventory-1-2-new"]
			for name, s := range store.shards {
				for key := range s.Data {
					if name != news.Name {
						require.NotContains(t, keys, key, "an entry is stored twice")
						keys[key] = struct{}{}
					}
				}
			}
			require.Len(t, keys, len(m.pending))
			for key := range news.Data {
				require.Contains(t, keys, key, "the news have it alone")
			}
			require.Positive(t, crashes)
		})
	}
}

func clone(m map[ID]Entry) map[ID]Entry {
	out := make(map[ID]Entry, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func TestInventory_WritersTakeTurnsAfterConflicts(t *testing.T) {
	for seed := range uint64(2) {
		random := rand.New(rand.NewPCG(seed, 11))
		m := newMemory()
		writers := []*Inventory{load(t, m), load(t, m)}
		made, conflicts := map[ID]bool{}, 0
		for i := range 80 {
			n := random.IntN(2)
			k := id(fmt.Sprintf("d-%05d", i))
			for {
				writers[n].Set(k, entry("x"))
				err := writers[n].Save(t.Context(), m)
				if err == nil {
					made[k] = true
					break
				}
				require.ErrorIs(t, err, ErrConflict)
				conflicts++
				writers[n] = load(t, m)
			}
			if random.IntN(20) == 0 {
				writers[1-n] = load(t, m)
			}
		}
		stored := all(load(t, m))
		for k := range made {
			require.Contains(t, stored, k)
		}
		require.Greater(t, conflicts, 2)
	}
}

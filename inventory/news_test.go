package inventory

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// stored is an inventory of n objects as it is saved.
func stored(t *testing.T, n int) (*memory, *Inventory) {
	t.Helper()
	m := newMemory()
	inv := load(t, m)
	for i := range n {
		inv.Set(id(fmt.Sprintf("d-%05d", i)), entry("old"))
	}
	require.NoError(t, inv.Save(t.Context(), m))
	m.puts = 0
	return m, inv
}

// change every so many of the n objects of an inventory, and save it.
func change(t *testing.T, m *memory, inv *Inventory, n, every int, text string) {
	t.Helper()
	for i := 0; i < n; i += every {
		inv.Set(id(fmt.Sprintf("d-%05d", i)), entry(text))
	}
	require.NoError(t, inv.Save(t.Context(), m))
}

func TestNews_AFewChangesAllOverAreOneSmallWrite(t *testing.T) {
	const n = 10_000
	m, inv := stored(t, n)
	change(t, m, inv, n, 100, "new")
	require.Equal(t, 1, m.puts)
	require.Len(t, m.shards["inventory-1-2-new"].Data, n/100)
	require.Equal(t, all(inv), all(load(t, m)))

	change(t, m, inv, n, 100, "newer")
	require.Equal(t, 2, m.puts, "what is news stays where it is")
	require.Equal(t, all(inv), all(load(t, m)))
}

func TestNews_TooManyGoWhereTheyBelong(t *testing.T) {
	const n = 1000
	m, inv := stored(t, n)
	shards := len(m.shards)
	change(t, m, inv, n, 100, "new")
	m.puts = 0
	change(t, m, inv, n, 2, "newer")
	require.Equal(t, shards+1, m.puts)
	require.Empty(t, m.shards["inventory-1-2-new"].Data)
	require.Equal(t, all(inv), all(load(t, m)))

	m.puts = 0
	change(t, m, inv, n, 1, "newest")
	require.Equal(t, shards, m.puts, "there were no news to take away")
	require.Equal(t, all(inv), all(load(t, m)))
}

func TestNews_SpareNoSmallShard(t *testing.T) {
	m, inv := stored(t, 100)
	change(t, m, inv, 100, 10, "new")
	require.Equal(t, 1, m.puts)
	require.NotContains(t, m.shards, "inventory-1-2-new")
}

func TestNews_OfWhatIsDeletedGoWithIt(t *testing.T) {
	const n = 1000
	m, inv := stored(t, n)
	change(t, m, inv, n, 100, "new")
	inv.Delete(id("d-00100"))
	require.NoError(t, inv.Save(t.Context(), m))
	require.Len(t, m.shards["inventory-1-2-new"].Data, n/100-1)
	require.Equal(t, all(inv), all(load(t, m)))
	require.NotContains(t, all(inv), id("d-00100"))
}

func TestNews_ThatNameAnObjectAloneKeepIt(t *testing.T) {
	const n = 1000
	m, inv := stored(t, n)
	change(t, m, inv, n, 100, "new")
	inv.Delete(id("d-00100"))
	m.puts, m.crashAt = 0, 2 // after its shard, before the news
	require.ErrorIs(t, inv.Save(t.Context(), m), errCrash)
	m.crashAt = 0
	inv = load(t, m)
	require.Equal(t, entry("new"), all(inv)[id("d-00100")])
	require.True(t, inv.Changed())
	require.NoError(t, inv.Save(t.Context(), m))
	require.Equal(t, all(inv), all(load(t, m)))
	require.NotContains(t, m.shards["inventory-1-2-new"].Data, "ns_d-00100_apps_Deployment")
}

func TestNews_KeepWhatCannotBeRead(t *testing.T) {
	const n = 1000
	m, inv := stored(t, n)
	change(t, m, inv, n, 100, "new")
	m.shards["inventory-1-2-new"].Data["what"] = "ever"
	inv = load(t, m)
	change(t, m, inv, n, 1, "newer")
	require.Equal(t, map[string]string{"what": "ever"}, m.shards["inventory-1-2-new"].Data)
}

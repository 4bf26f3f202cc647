package inventory

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// many is an inventory of n objects of a long name, as it is stored.
func many(tb testing.TB, n int) (*memory, *Inventory) {
	tb.Helper()
	m := newMemory()
	inv := New("1-2")
	for i := range n {
		inv.Set(id(fmt.Sprintf("some-service-of-some-team-%06d", i)), entry(fmt.Sprint(i)))
	}
	require.NoError(tb, inv.Save(tb.Context(), m))
	return m, inv
}

func BenchmarkInventory_Load50000(b *testing.B) {
	m, inv := many(b, 50_000)
	size := 0
	for _, s := range m.shards {
		for k, v := range s.Data {
			size += len(k) + len(v)
		}
	}
	b.ReportMetric(float64(len(m.shards)), "shards")
	b.ReportMetric(float64(size)/float64(inv.Len()), "B/entry")
	for b.Loop() {
		if got, err := Load(b.Context(), m, "1-2"); err != nil || got.Len() != inv.Len() {
			b.Fatal(err)
		}
	}
}

func BenchmarkInventory_Record50000(b *testing.B) {
	for b.Loop() {
		many(b, 50_000)
	}
}

func BenchmarkInventory_ChangeOneOf50000(b *testing.B) {
	m, inv := many(b, 50_000)
	n := 0
	for b.Loop() {
		n++
		inv.Set(id("some-service-of-some-team-025000"), entry(fmt.Sprint("changed", n)))
		if err := inv.Save(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
}

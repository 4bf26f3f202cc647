package inventory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cliinventory "sigs.k8s.io/cli-utils/pkg/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errCrash = errors.New("crash")

// memory is a Storage that can crash.
type memory struct {
	mu     sync.Mutex
	shards map[string]Shard
	puts   int
	// crashAt makes this put, and all after it, fail; zero: none.
	crashAt int
}

func newMemory() *memory { return &memory{shards: map[string]Shard{}} }

func (m *memory) List(context.Context, string) ([]Shard, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Shard
	for _, s := range m.shards {
		s.Data = maps.Clone(s.Data)
		out = append(out, s)
	}
	return out, nil
}

func (m *memory) Put(_ context.Context, _ string, s Shard) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.crashAt > 0 && m.puts >= m.crashAt {
		return "", errCrash
	}
	if m.shards[s.Name].ResourceVersion != s.ResourceVersion {
		return "", ErrConflict
	}
	s.ResourceVersion = strconv.Itoa(m.puts)
	m.shards[s.Name] = s
	return s.ResourceVersion, nil
}

func id(name string) ID {
	return ID{GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}, Namespace: "ns", Name: name}
}

func entry(text string) Entry {
	return Entry{Digest: Short(sha256.Sum256([]byte(text))), Ownership: Short(sha256.Sum256([]byte("o" + text)))}
}

func load(t *testing.T, m *memory) *Inventory {
	t.Helper()
	inv, err := Load(t.Context(), m, "1-2")
	require.NoError(t, err)
	return inv
}

func all(inv *Inventory) map[ID]Entry { return maps.Collect(inv.All()) }

func TestInventory_SurvivesSaveAndLoad(t *testing.T) {
	m := newMemory()
	inv := load(t, m)
	require.False(t, inv.Changed())
	inv.Set(id("a"), entry("1"))
	inv.Set(id("b"), Entry{})
	require.True(t, inv.Changed())
	require.NoError(t, inv.Save(t.Context(), m))
	require.False(t, inv.Changed())

	inv.Set(id("a"), entry("1"))
	require.False(t, inv.Changed(), "the same entry is no change")
	inv = load(t, m)
	require.Equal(t, map[ID]Entry{id("a"): entry("1"), id("b"): {}}, all(inv))

	inv.Delete(id("b"))
	require.NoError(t, inv.Save(t.Context(), m))
	require.Equal(t, map[ID]Entry{id("a"): entry("1")}, all(load(t, m)))
	require.Contains(t, m.shards, "inventory-1-2")
}

func TestInventory_ManyObjectsAreManyShardsAndASmallChangeIsOneWrite(t *testing.T) {
	m := newMemory()
	inv := load(t, m)
	want := map[ID]Entry{}
	for i := range 10_000 {
		n := fmt.Sprintf("deployment-%05d", i)
		want[id(n)] = entry(n)
		inv.Set(id(n), Entry{})
	}
	require.NoError(t, inv.Save(t.Context(), m))
	for k, e := range want {
		inv.Set(k, e)
	}
	require.NoError(t, inv.Save(t.Context(), m))
	require.Greater(t, len(m.shards), 10)
	for _, s := range m.shards {
		size := 0
		for k, v := range s.Data {
			size += len(k) + len(v)
		}
		require.Less(t, size, 2*shardBytes, s.Name)
	}
	inv = load(t, m)
	require.Equal(t, want, all(inv))

	before := m.puts
	inv.Set(id("deployment-05000"), entry("changed"))
	require.NoError(t, inv.Save(t.Context(), m))
	require.Equal(t, before+1, m.puts)
}

func TestInventory_LosesNoIDWhereverASaveIsInterrupted(t *testing.T) {
	// Entries without digests fill shards that overflow when the digests come.
	fill := func() (*memory, *Inventory) {
		m := newMemory()
		inv := load(t, m)
		for i := range 3000 {
			inv.Set(id(fmt.Sprintf("d-%05d", i)), Entry{})
		}
		require.NoError(t, inv.Save(t.Context(), m))
		return m, inv
	}
	crashed := 0
	for n := 1; ; n++ {
		m, inv := fill()
		for i := range 3000 {
			inv.Set(id(fmt.Sprintf("d-%05d", i)), entry("x"))
		}
		inv.Set(id("new"), entry("x"))
		m.crashAt = m.puts + n
		err := inv.Save(t.Context(), m)
		m.crashAt = 0
		again := load(t, m)
		require.GreaterOrEqual(t, again.Len(), 3000, "crash at write %d", n)
		// What is there twice now is there once after the next save.
		require.NoError(t, again.Save(t.Context(), m))
		seen := 0
		for _, s := range m.shards {
			seen += len(s.Data)
		}
		require.Equal(t, again.Len(), seen, "crash at write %d", n)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, errCrash)
		crashed++
	}
	require.Greater(t, crashed, 3)
}

func TestInventory_WhatMovedDoesNotMoveOnBeforeItIsSaved(t *testing.T) {
	m := newMemory()
	inv := load(t, m)
	// A shard full of entries that are about to grow, and one that has room.
	var ids []ID
	for i := 0; len(inv.shards) < 2 || inv.shards[1].size < shardBytes/2; i++ {
		ids = append(ids, id(fmt.Sprintf("d-%05d", i)))
		inv.Set(ids[i], Entry{})
	}
	require.NoError(t, inv.Save(t.Context(), m))
	for _, k := range ids {
		inv.Set(k, entry("x"))
	}
	for k, s := range inv.slots {
		if sh := inv.shards[s.shard]; sh.source {
			name, _ := keyOf(k)
			require.Contains(t, m.shards[sh.name].Data, name, "moved into a shard that others moved out of")
		}
	}
}

func TestInventory_RefusesToOverwriteASecondWriter(t *testing.T) {
	m := newMemory()
	one, two := load(t, m), load(t, m)
	one.Set(id("a"), entry("1"))
	require.NoError(t, one.Save(t.Context(), m))
	two.Set(id("b"), entry("1"))
	require.ErrorIs(t, two.Save(t.Context(), m), ErrConflict)
}

func TestInventory_ReadsWhatCliUtilsWrites(t *testing.T) {
	m := newMemory()
	m.shards["inventory-12345"] = Shard{Name: "inventory-12345", ResourceVersion: "7", Data: map[string]string{
		"ns_a_apps_Deployment":                                `{"actuation":"Succeeded","reconcile":"Succeeded","strategy":"Apply"}`,
		"_system__node_rbac.authorization.k8s.io_ClusterRole": "",
		"not an ID": "whatever",
	}}
	inv := load(t, m)
	role := ID{GroupKind: schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}, Name: "system:node"}
	require.Equal(t, map[ID]Entry{id("a"): {}, role: {}}, all(inv))

	inv.Set(id("a"), entry("1"))
	require.NoError(t, inv.Save(t.Context(), m))
	require.Len(t, m.shards, 1, "taken over, not copied")
	require.Equal(t, "whatever", m.shards["inventory-12345"].Data["not an ID"], "what cannot be read is kept")
	require.Equal(t, entry("1"), all(load(t, m))[id("a")])
}

func TestInventory_AnOverfullStockInventoryIsSpreadOut(t *testing.T) {
	m := newMemory()
	data := map[string]string{}
	for i := range 5000 {
		data[id(fmt.Sprintf("d-%05d", i)).String()] = ""
	}
	m.shards["stock"] = Shard{Name: "stock", ResourceVersion: "7", Data: data}
	inv := load(t, m)
	for k := range all(inv) {
		inv.Set(k, entry("x"))
	}
	require.NoError(t, inv.Save(t.Context(), m))
	require.Len(t, all(load(t, m)), 5000)
	require.Less(t, len(m.shards["stock"].Data), 1000)
}

func TestInventory_CliUtilsReadsWhatWeWrite(t *testing.T) {
	m := newMemory()
	inv := load(t, m)
	inv.Set(id("a"), entry("1"))
	require.NoError(t, inv.Save(t.Context(), m))
	data := map[string]any{}
	for k, v := range m.shards["inventory-1-2"].Data {
		data[k] = v
	}
	stock := cliinventory.WrapInventoryObj(&unstructured.Unstructured{Object: map[string]any{"data": data}})
	ids, err := stock.Load()
	require.NoError(t, err)
	require.Equal(t, []ID{id("a")}, []ID(ids))
}

func TestCodec_IDsThatMakeNoKey(t *testing.T) {
	for name, odd := range map[string]ID{
		"a name with a colon":              {GroupKind: schema.GroupKind{Group: "x", Kind: "K"}, Name: "a:b"},
		"a name with an underscore":        {GroupKind: schema.GroupKind{Group: "x", Kind: "K"}, Name: "a_b"},
		"a role with a double underscore":  {GroupKind: schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}, Name: "a__b"},
		"a name and a namespace too long":  {GroupKind: schema.GroupKind{Group: "x", Kind: "K"}, Namespace: strings.Repeat("n", 63), Name: strings.Repeat("a", 253)},
		"a namespace that looks like hash": {GroupKind: schema.GroupKind{Kind: "K"}, Namespace: "sha256-00", Name: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			key, value := encode(odd, entry("1"))
			require.True(t, strings.HasPrefix(key, hashedPrefix), key)
			got, e, err := decode(key, value)
			require.NoError(t, err)
			require.Equal(t, odd, got)
			require.Equal(t, entry("1"), e)
		})
	}
}

func FuzzCodec_RoundTrip(f *testing.F) {
	f.Add("apps", "Deployment", "ns", "name")
	f.Add("", "ConfigMap", "", "a:b")
	f.Add("rbac.authorization.k8s.io", "Role", "n", "system:x__y")
	f.Fuzz(func(t *testing.T, group, kind, namespace, name string) {
		for _, s := range []string{group, kind, namespace, name} {
			if strings.ToValidUTF8(s, "") != s {
				t.Skip("JSON, and so every name that an API server knows, is UTF-8")
			}
		}
		want := ID{GroupKind: schema.GroupKind{Group: group, Kind: kind}, Namespace: namespace, Name: name}
		key, value := encode(want, entry(name))
		require.LessOrEqual(t, len(key), maxKey)
		require.Regexp(t, validKey, key)
		got, e, err := decode(key, value)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, entry(name), e)
	})
}

func TestOwnershipOf_HashesNamesAndTimeOfOurAppliedFieldsOnly(t *testing.T) {
	fields := func(json string) *metav1.FieldsV1 { f := &metav1.FieldsV1{}; f.SetRawBytes([]byte(json)); return f }
	ours := metav1.ManagedFieldsEntry{Manager: "agentk", Operation: "Apply", APIVersion: "v1", FieldsV1: fields(`{"f:a":{},"f:b":{}}`)}
	base := OwnershipOf([]metav1.ManagedFieldsEntry{ours}, "agentk")
	require.False(t, base.IsZero())

	reordered := ours
	reordered.FieldsV1 = fields(`{"f:b": {}, "f:a": {}}`)
	foreign := metav1.ManagedFieldsEntry{Manager: "kubectl", Operation: "Apply", APIVersion: "v1", FieldsV1: fields(`{"f:c":{}}`)}
	update := metav1.ManagedFieldsEntry{Manager: "agentk", Operation: "Update", APIVersion: "v1", FieldsV1: fields(`{"f:c":{}}`)}
	require.Equal(t, base, OwnershipOf([]metav1.ManagedFieldsEntry{foreign, reordered, update}, "agentk"))

	lost := ours
	lost.FieldsV1 = fields(`{"f:a":{}}`)
	require.NotEqual(t, base, OwnershipOf([]metav1.ManagedFieldsEntry{lost}, "agentk"))
	require.True(t, OwnershipOf([]metav1.ManagedFieldsEntry{foreign}, "agentk").IsZero())

	// The same fields with other values: somebody applied in our name.
	again := ours
	again.Time = &metav1.Time{Time: time.Unix(1_700_000_000, 5)}
	applied := OwnershipOf([]metav1.ManagedFieldsEntry{again}, "agentk")
	require.NotEqual(t, base, applied)
	again.Time = &metav1.Time{Time: time.Unix(1_700_000_000, 0).UTC()}
	require.Equal(t, applied, OwnershipOf([]metav1.ManagedFieldsEntry{again}, "agentk"), "to the second, as it is sent")
}

func TestParseHash_RefusesWhatIsNoHash(t *testing.T) {
	h := entry("1").Digest
	got, err := ParseHash(h.String())
	require.NoError(t, err)
	require.Equal(t, h, got)
	for _, s := range []string{"x", "!!!", "AAAA", h.String() + "AAAA"} {
		_, err := ParseHash(s)
		require.Error(t, err, s)
	}
}

package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sync/errgroup"
)

// Label of the ConfigMaps that hold an inventory; its value is the inventory's ID.
const Label = "cli-utils.sigs.k8s.io/inventory-id"

// saveParallel is how many shards are written at a time.
const saveParallel = 8

// ErrConflict is wrapped when somebody else has changed the stored inventory: load
// it anew.
var ErrConflict = errors.New("the stored inventory was changed by somebody else")

// Shard is one ConfigMap of an inventory.
type Shard struct {
	Name string
	// ResourceVersion that was read; empty: it does not exist yet.
	ResourceVersion string
	Data            map[string]string
}

// Storage is where shards are kept.
type Storage interface {
	// List returns all shards of the inventory with this ID.
	List(ctx context.Context, id string) ([]Shard, error)
	// Put creates the shard if it has no resource version, or replaces it if it
	// still has that one, and returns the new one. Otherwise it wraps ErrConflict.
	Put(ctx context.Context, id string, s Shard) (resourceVersion string, err error)
}

// Load reads an inventory. One that is not stored yet is empty.
func Load(ctx context.Context, st Storage, id string) (*Inventory, error) {
	stored, err := st.List(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("load inventory %s: %w", id, err)
	}
	inv := New(id)
	for _, s := range stored {
		if s.Name != inv.news.name {
			inv.add(s)
		}
	}
	for _, s := range stored {
		if s.Name == inv.news.name {
			inv.addNews(s)
		}
	}
	return inv, nil
}

// add takes a stored shard in.
func (inv *Inventory) add(s Shard) {
	n := len(inv.shards)
	sh := &shard{name: s.Name, resourceVersion: s.ResourceVersion}
	inv.shards = append(inv.shards, sh)
	for key, value := range s.Data {
		id, e, err := decode(key, value)
		if err != nil {
			if sh.unreadable == nil {
				sh.unreadable = map[string]string{}
			}
			sh.unreadable[key] = value
			sh.size += len(key) + len(value)
			continue
		}
		if other, ok := inv.slots[id]; ok {
			// A Save was interrupted after an entry had been written to its new
			// shard and before it was removed from the old one. What knows more is
			// the newer.
			if e.Digest.IsZero() || !other.Digest.IsZero() {
				sh.dirty = true
				continue
			}
			inv.free(id, other)
		}
		sh.size += entrySize(id)
		inv.slots[id] = slot{Entry: e, shard: n}
	}
}

// Save writes the shards that have changed. After an error the inventory must be
// loaded anew.
func (inv *Inventory) Save(ctx context.Context, st Storage) error {
	data := inv.encodeDirty()
	for _, sources := range []bool{false, true} {
		var g errgroup.Group
		g.SetLimit(saveParallel)
		for sh, d := range data {
			if sh.source != sources {
				continue
			}
			g.Go(func() error {
				rv, err := st.Put(ctx, inv.id, Shard{Name: sh.name, ResourceVersion: sh.resourceVersion, Data: d})
				if err != nil {
					return fmt.Errorf("save inventory %s: %w", inv.id, err)
				}
				sh.resourceVersion = rv
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	for sh := range data {
		sh.dirty, sh.source, sh.target = false, false, false
	}
	inv.news.stored = len(inv.news.ids)
	return nil
}

// encodeDirty returns the data of the shards to write.
func (inv *Inventory) encodeDirty() map[*shard]map[string]string {
	data := map[*shard]map[string]string{}
	begin := func(sh *shard) (d map[string]string) {
		if sh.dirty {
			d = make(map[string]string, len(sh.unreadable))
			maps.Copy(d, sh.unreadable)
			data[sh] = d
		}
		return d
	}
	if d := begin(&inv.news.shard); d != nil {
		for id := range inv.news.ids {
			key, value := encode(id, inv.slots[id].Entry)
			d[key] = value
		}
	}
	shards := make([]map[string]string, len(inv.shards)) // nil: it is not written
	written := false
	for n, sh := range inv.shards {
		shards[n] = begin(sh)
		written = written || sh.dirty
	}
	if !written {
		return data
	}
	for id, s := range inv.slots {
		if d := shards[s.shard]; d != nil {
			key, value := encode(id, s.Entry)
			d[key] = value
		}
	}
	return data
}

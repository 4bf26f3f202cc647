package inventory

import "iter"

// Entry is what is remembered of one object.
type Entry struct {
	// Digest of the manifest that was last applied. Zero: the object was about to
	// be applied, and whether it was is not known.
	Digest Hash
	// Ownership is the hash of the fields that we owned after that (see OwnershipOf).
	Ownership Hash
	// Held: the object left the repository and is not deleted before a person has
	// approved of that.
	Held bool
}

// shardBytes is how large the data of a shard may grow: some 400 entries, so that
// one change costs a small write.
const shardBytes = 64 << 10

// Inventory is the set of objects that a project has put into a cluster. Changes
// are in memory until Save.
type Inventory struct {
	id     string
	slots  map[ID]slot
	shards []*shard
	// room is the first shard that may have room.
	room int
	news news
}

// slot is an entry and the index of the shard that holds it.
type slot struct {
	Entry
	shard int
	// news: what that shard has of it, as it is stored, is outdated.
	news bool
}

// shard is the state of one ConfigMap.
type shard struct {
	name            string
	resourceVersion string
	// size of the encoded entries in bytes.
	size int
	// dirty: to be written by the next Save.
	dirty bool
	// source: something moved from here to another shard since the last Save, so
	// the other is written first and nothing may move in meanwhile.
	source bool
	// target: something moved here since the last Save, so nothing may move out
	// meanwhile, lest this shard had to be written both before and after others. It
	// rather grows a little beyond its limit.
	target bool
	// unreadable data is written back as it is.
	unreadable map[string]string
}

// New returns an empty inventory with this ID.
func New(id string) *Inventory {
	return &Inventory{id: id, slots: map[ID]slot{}, news: news{shard: shard{name: newsName(id)}}}
}

// ID of the inventory: what its ConfigMaps carry as a label, and what the objects
// it owns carry as an annotation.
func (inv *Inventory) ID() string { return inv.id }

// Len is the number of objects.
func (inv *Inventory) Len() int { return len(inv.slots) }

// Get returns the entry of an object.
func (inv *Inventory) Get(id ID) (Entry, bool) {
	s, ok := inv.slots[id]
	return s.Entry, ok
}

// All yields every object, in no order. The inventory must not change meanwhile.
func (inv *Inventory) All() iter.Seq2[ID, Entry] {
	return func(yield func(ID, Entry) bool) {
		for id, s := range inv.slots {
			if !yield(id, s.Entry) {
				return
			}
		}
	}
}

// Changed says that there is something to save.
func (inv *Inventory) Changed() bool {
	if inv.news.dirty {
		return true
	}
	for _, sh := range inv.shards {
		if sh.dirty {
			return true
		}
	}
	return false
}

// Set adds an object or replaces its entry.
func (inv *Inventory) Set(id ID, e Entry) {
	size := entrySize(id)
	old, had := inv.slots[id]
	if had {
		if old.Entry == e {
			return
		}
		sh := inv.shards[old.shard]
		if sh.size <= shardBytes || sh.target {
			inv.slots[id] = slot{Entry: e, shard: old.shard, news: old.news}
			inv.changed(id)
			return
		}
		inv.free(id, old)
		sh.source = true
	}
	n := inv.place(size)
	inv.shards[n].target = inv.shards[n].target || had
	inv.shards[n].size += size
	inv.shards[n].dirty = true
	inv.slots[id] = slot{Entry: e, shard: n}
}

// Delete removes an object.
func (inv *Inventory) Delete(id ID) {
	if s, ok := inv.slots[id]; ok {
		inv.free(id, s)
		delete(inv.slots, id)
	}
}

// free takes an entry out of the books of its shard.
func (inv *Inventory) free(id ID, s slot) {
	sh := inv.shards[s.shard]
	sh.size -= entrySize(id)
	sh.dirty = true
	inv.room = min(inv.room, s.shard)
	if s.news {
		inv.news.remove(id)
	}
}

// place finds the shard for a new entry, or makes one.
func (inv *Inventory) place(size int) int {
	first := true
	for n := inv.room; n < len(inv.shards); n++ {
		sh := inv.shards[n]
		if !sh.source && (sh.size+size <= shardBytes || sh.size == 0) {
			return n
		}
		// Only what stays full is skipped the next time.
		first = first && !sh.source && sh.size > shardBytes-minEntry
		if first {
			inv.room = n + 1
		}
	}
	inv.shards = append(inv.shards, &shard{name: inv.freeName()})
	return len(inv.shards) - 1
}

// freeName is the first name that no shard has.
func (inv *Inventory) freeName() string {
	taken := make(map[string]struct{}, len(inv.shards))
	for _, sh := range inv.shards {
		taken[sh.name] = struct{}{}
	}
	for n := 0; ; n++ {
		name := shardName(inv.id, n)
		if _, ok := taken[name]; !ok {
			return name
		}
	}
}

package inventory

// newsBytes is how large the news may grow: some 100 entries. They spare shards that are
// larger than that from being written, and no others.
const newsBytes = 16 << 10

// news is the shard of what has changed lately: entries that outdate those that other
// shards have of the same IDs. So a commit that changes a few of many objects costs one
// small write, wherever they are recorded. Once there are too many, they go to where they
// belong.
//
// The news never have an ID alone: what is new goes to another shard at once. So they may
// be lost, or be older than the rest, which looks as if the last Save had not been.
type news struct {
	shard
	ids map[ID]struct{}
	// stored is how many entries are stored.
	stored int
}

// newsName of the ConfigMap.
func newsName(id string) string { return "inventory-" + id + "-new" }

// remove takes an ID out, once what outdates it is stored.
func (n *news) remove(id ID) {
	delete(n.ids, id)
	n.size -= entrySize(id)
	n.source = n.stored > 0
	n.dirty = n.source || len(n.ids) > 0
}

// changed notes that an entry has changed which stays in its shard.
func (inv *Inventory) changed(id ID) {
	s, n := inv.slots[id], &inv.news
	sh := inv.shards[s.shard]
	switch {
	case s.news:
		n.dirty = true
	case sh.dirty || n.source || sh.size <= newsBytes:
		sh.dirty = true
	default:
		s.news = true
		inv.slots[id] = s
		if n.ids == nil {
			n.ids = map[ID]struct{}{}
		}
		n.ids[id] = struct{}{}
		n.size += entrySize(id)
		n.dirty = true
		if n.size > newsBytes {
			inv.settle()
		}
	}
}

// settle has the news written to where they belong, and leaves none.
func (inv *Inventory) settle() {
	for id := range inv.news.ids {
		s := inv.slots[id]
		s.news = false
		inv.slots[id] = s
		inv.shards[s.shard].dirty = true
		inv.news.remove(id)
	}
}

// addNews takes the stored news in, after all other shards.
func (inv *Inventory) addNews(stored Shard) {
	n := &inv.news
	n.resourceVersion = stored.ResourceVersion
	n.ids = map[ID]struct{}{}
	for key, value := range stored.Data {
		id, e, err := decode(key, value)
		if err != nil {
			if n.unreadable == nil {
				n.unreadable = map[string]string{}
			}
			n.unreadable[key] = value
			continue
		}
		n.stored++
		s, known := inv.slots[id]
		if !known {
			// A Save was interrupted that deleted it, or somebody else has written here.
			inv.Set(id, e)
			n.source, n.dirty = true, true
			continue
		}
		n.ids[id] = struct{}{}
		n.size += entrySize(id)
		inv.slots[id] = slot{Entry: e, shard: s.shard, news: true}
	}
}

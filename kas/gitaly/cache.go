package gitaly

import (
	"container/list"
	"sync"
)

// objectKey is a Git object of a repository. Contents are not shared between
// repositories: who can push to one must not be able to plant what another reads.
type objectKey struct {
	repoKey
	kind objectKind
	id   string
}

type objectKind int

const (
	kindTree objectKind = iota + 1
	kindBlob
)

// blob is a file's content.
type blob struct {
	// size in bytes of the whole blob.
	size int64
	// data is nil where the blob was larger than what was asked for.
	data []byte
}

// cache keeps what was used last, bounded by its weight in bytes. Values are trees
// ([]gitrepo.File) and blobs; an ID never changes its meaning.
type cache struct {
	mu       sync.Mutex
	capacity int64
	weight   int64
	entries  map[objectKey]*list.Element
	recent   *list.List // of *entry, last used first
}

type entry struct {
	key    objectKey
	value  any
	weight int64
}

// entryWeight is what an entry costs besides its value, in bytes.
const entryWeight = 300

func newCache(capacity int64) *cache {
	return &cache{capacity: capacity, entries: make(map[objectKey]*list.Element), recent: list.New()}
}

func (c *cache) get(key objectKey) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*entry).value, true
}

// put adds a value of the given weight in bytes, and drops others to make room.
func (c *cache) put(key objectKey, value any, weight int64) {
	weight += entryWeight
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		c.drop(e)
	}
	if weight > c.capacity {
		return
	}
	for c.weight+weight > c.capacity {
		c.drop(c.recent.Back())
	}
	c.entries[key] = c.recent.PushFront(&entry{key: key, value: value, weight: weight})
	c.weight += weight
}

func (c *cache) drop(e *list.Element) {
	old := c.recent.Remove(e).(*entry)
	delete(c.entries, old.key)
	c.weight -= old.weight
}

func (c *cache) bytes() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.weight)
}

// flights lets concurrent askers of the same thing share one fetch: the first claims
// it, the others wait for the end and look into the cache then.
type flights struct {
	mu      sync.Mutex
	claimed map[objectKey]chan struct{}
}

func newFlights() *flights { return &flights{claimed: make(map[objectKey]chan struct{})} }

// claim returns nil where the caller is to fetch key and then release it; else a
// channel that is closed when another's fetch has ended, well or not.
func (f *flights) claim(key objectKey) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if landed, ok := f.claimed[key]; ok {
		return landed
	}
	f.claimed[key] = make(chan struct{})
	return nil
}

func (f *flights) release(keys ...objectKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		close(f.claimed[key])
		delete(f.claimed, key)
	}
}

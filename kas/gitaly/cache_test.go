package gitaly

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCache_DropsWhatWasUsedLongestAgo(t *testing.T) {
	key := func(id string) objectKey { return objectKey{kind: kindBlob, id: id} }
	c := newCache(3 * (entryWeight + 100))
	for _, id := range []string{"a", "b", "c"} {
		c.put(key(id), id, 100)
	}
	_, ok := c.get(key("a"))
	assert.True(t, ok)
	c.put(key("d"), "d", 100)
	_, ok = c.get(key("b"))
	assert.False(t, ok, "b was used longest ago")
	for _, id := range []string{"a", "c", "d"} {
		v, ok := c.get(key(id))
		assert.True(t, ok, id)
		assert.Equal(t, id, v)
	}
	assert.InDelta(t, 3*(entryWeight+100), c.bytes(), 0)
}

func TestCache_Weight(t *testing.T) {
	key := objectKey{id: "a"}
	c := newCache(1000)
	c.put(key, 1, 1001)
	_, ok := c.get(key)
	assert.False(t, ok, "larger than the whole cache")
	c.put(key, 1, 100)
	c.put(key, 2, 200)
	v, _ := c.get(key)
	assert.Equal(t, 2, v)
	assert.InDelta(t, entryWeight+200, c.bytes(), 0, "put again in place of what was there")
	c.put(objectKey{id: "b"}, 3, 1000-entryWeight)
	_, ok = c.get(key)
	assert.False(t, ok)
}

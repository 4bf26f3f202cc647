package render

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"sort"
	"strings"
)

// Tree is the regular files of one commit, by name only. It never changes.
type Tree struct {
	ids   map[string]string
	paths []string // sorted
}

// NewTree returns the tree of files whose content is told by IDs: equal IDs are equal
// contents. The map is kept.
func NewTree(ids map[string]string) *Tree {
	t := &Tree{ids: ids, paths: make([]string, 0, len(ids))}
	for name := range ids {
		t.paths = append(t.paths, name)
	}
	slices.Sort(t.paths)
	return t
}

func (t *Tree) isFile(name string) bool { return t.ids[name] != "" }

func (t *Tree) isDir(name string) bool { return len(t.below(name, 1)) > 0 }

// below returns the files in a directory, and in those in it, sorted; at most limit.
func (t *Tree) below(dir string, limit int) []string {
	if dir == "." {
		return t.paths[:min(limit, len(t.paths))]
	}
	prefix := dir + "/"
	start := sort.SearchStrings(t.paths, prefix)
	end := start
	for end < len(t.paths) && end-start < limit && strings.HasPrefix(t.paths[end], prefix) {
		end++
	}
	return t.paths[start:end]
}

// listing is what a rendering noted under a directory of which it saw everything.
const listing = "/**"

// mark is what a rendering sees at name: other files there, other marks.
func (t *Tree) mark(name string) string {
	if dir, ok := strings.CutSuffix(name, listing); ok {
		h := sha256.New()
		for _, file := range t.below(dir, len(t.paths)) {
			h.Write([]byte(file + "\x00" + t.ids[file] + "\x00"))
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	if id := t.ids[name]; id != "" {
		return id
	}
	if t.isDir(name) {
		return "directory"
	}
	return ""
}

// join is path.Join for paths of the repository; it keeps what leads out of it.
func join(dir, name string) string {
	if path.IsAbs(name) {
		return ".." + name
	}
	return path.Join(dir, name)
}

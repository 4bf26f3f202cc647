package render

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/kas-agentk/kas/manifests"
)

// bench is where one rendering works: what it has loaded and looked at, and what it
// found wrong. One goroutine uses it.
type bench struct {
	tree   *Tree
	limits manifests.Limits
	load   func(paths []string, yield func(path string, data []byte, size int64)) error

	// data of the files that were loaded, nil where too large; sizes of all of them.
	data  map[string][]byte
	sizes map[string]int64
	size  int64 // of all of them
	// seen is what was looked at.
	seen map[string]string
	// guards of the kustomizations that were read.
	guards map[string]*guard

	mistakes []manifests.FileError
	// failed says that files could not be loaded: nothing else counts then.
	failed error
}

// errStopped ends a rendering of which is known already what is wrong.
var errStopped = errors.New("rendering has stopped")

func (b *bench) mistake(file string, line int, format string, args ...any) {
	b.add(manifests.FileError{Path: file, Line: line, Message: manifests.Clip(fmt.Sprintf(format, args...))})
}

func (b *bench) add(mistakes ...manifests.FileError) {
	const most = 50
	for _, m := range mistakes {
		if len(b.mistakes) < most {
			b.mistakes = append(b.mistakes, m)
		}
	}
}

// stopped tells whether going on is of no use.
func (b *bench) stopped() bool { return b.failed != nil || len(b.mistakes) > 0 }

// look notes what is at name and returns it.
func (b *bench) look(name string) (isFile, isDir bool) {
	mark := b.tree.mark(name)
	b.seen[name] = mark
	isFile = b.tree.isFile(name)
	return isFile, mark != "" && !isFile
}

// fetch loads files in one go, as far as they exist and are not there yet.
func (b *bench) fetch(names []string) {
	if b.failed != nil {
		return
	}
	var missing []string
	asked := map[string]bool{}
	for _, name := range names {
		if _, loaded := b.sizes[name]; !loaded && b.tree.isFile(name) && !asked[name] {
			asked[name] = true
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return
	}
	if len(b.sizes)+len(missing) > b.limits.MaxFiles {
		b.mistake(missing[0], 0, "rendering reads more files than the limit of %d", b.limits.MaxFiles)
		return
	}
	b.failed = b.load(missing, func(name string, data []byte, size int64) {
		b.sizes[name], b.data[name] = size, data
		if data != nil {
			b.size += size
		}
	})
	if b.size > b.limits.MaxTotalSize {
		b.mistake(missing[0], 0, "the files that rendering reads have more bytes together than the limit of %d", b.limits.MaxTotalSize)
	}
}

// read returns a copy of a file.
func (b *bench) read(name string) ([]byte, error) {
	isFile, _ := b.look(name)
	if !isFile {
		return nil, fmt.Errorf("%s does not exist in the repository", name)
	}
	b.fetch([]string{name})
	if b.stopped() {
		return nil, errStopped
	}
	data := b.data[name]
	if data == nil && b.sizes[name] > 0 {
		b.add(manifests.TooLarge(name, b.sizes[name], b.limits).Errors...)
		return nil, errStopped
	}
	return bytes.Clone(data), nil
}

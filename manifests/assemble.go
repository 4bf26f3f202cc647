package manifests

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/kas-agentk/kas/inventory"
)

// Assemble makes the set of a commit from its selected files. Two objects with the
// same ID, where one without a namespace counts as in defaultNamespace, are a
// mistake: the first in the order of path and line stays, and the set is incomplete,
// because which one is meant is unknown. files may come in any order and are not
// changed.
func Assemble(files []FileResult, defaultNamespace string, limits Limits) Set {
	a := &assembly{
		limits:    limits,
		namespace: defaultNamespace,
		first:     make(map[inventory.ID]Position),
	}
	sorted := slices.Clone(files)
	slices.SortStableFunc(sorted, func(x, y FileResult) int { return cmp.Compare(x.Path, y.Path) })
	var size int64
	for i := range sorted {
		f := &sorted[i]
		size += f.Size
		switch {
		case i >= limits.MaxFiles:
			a.error(FileError{Path: f.Path, Message: fmt.Sprintf("the globs select %d files, more than the limit of %d: this one and what follows it is left out", len(sorted), limits.MaxFiles)})
		case size > limits.MaxTotalSize:
			a.error(FileError{Path: f.Path, Message: fmt.Sprintf("the selected files have more bytes together than the limit of %d: this one and what follows it is left out", limits.MaxTotalSize)})
		case !a.file(f):
		default:
			continue
		}
		break
	}
	return a.set()
}

// assembly is a set in the making.
type assembly struct {
	limits    Limits
	namespace string
	first     map[inventory.ID]Position
	objects   []Object
	errors    []FileError
	untold    int
}

// file adds a file's objects and errors; false means that the set is full.
func (a *assembly) file(f *FileResult) bool {
	for _, e := range f.Errors {
		a.error(e)
	}
	for i := range f.Objects {
		o := &f.Objects[i]
		id := o.ID
		if id.Namespace == "" {
			id.Namespace = a.namespace
		}
		if first, taken := a.first[id]; taken {
			a.error(FileError{Path: o.Position.Path, Line: o.Position.Line, Message: fmt.Sprintf(
				"%s is also defined at %s, which is the one in force: remove one of them", describeID(o.ID), first)})
			continue
		}
		if len(a.objects) >= a.limits.MaxObjects {
			a.error(FileError{Path: o.Position.Path, Line: o.Position.Line, Message: fmt.Sprintf(
				"the repository has more objects than the limit of %d: this one and what follows it is left out", a.limits.MaxObjects)})
			return false
		}
		a.first[id] = o.Position
		a.objects = append(a.objects, *o)
	}
	return true
}

func (a *assembly) error(e FileError) {
	if len(a.errors) >= a.limits.MaxErrors {
		a.untold++
		return
	}
	a.errors = append(a.errors, e)
}

func (a *assembly) set() Set {
	slices.SortStableFunc(a.errors, func(x, y FileError) int {
		return cmp.Or(cmp.Compare(x.Path, y.Path), cmp.Compare(x.Line, y.Line))
	})
	set := Set{Objects: a.objects, Errors: a.errors, Complete: len(a.errors)+a.untold == 0}
	if a.untold > 0 {
		set.Errors = append(set.Errors, FileError{Message: fmt.Sprintf("%d more mistakes in the repository", a.untold)})
	}
	return set
}

func describeID(id inventory.ID) string {
	kind := id.GroupKind.Kind
	if id.GroupKind.Group != "" {
		kind += "." + id.GroupKind.Group
	}
	if id.Namespace == "" {
		return kind + " " + id.Name
	}
	return kind + " " + id.Namespace + "/" + id.Name
}

// Digests returns the digests of the set's objects.
func (s *Set) Digests() map[Digest]struct{} {
	digests := make(map[Digest]struct{}, len(s.Objects))
	for i := range s.Objects {
		digests[s.Objects[i].Digest] = struct{}{}
	}
	return digests
}

// Delta returns the objects of set whose digests are not in held, in the set's
// order.
func Delta(set *Set, held map[Digest]struct{}) []Object {
	var fresh []Object
	for i := range set.Objects {
		if _, ok := held[set.Objects[i].Digest]; !ok {
			fresh = append(fresh, set.Objects[i])
		}
	}
	return fresh
}

package render

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// mount is where Kustomize sees the repository: not at the root, so that "../.." cannot
// lead out of it unseen.
const mount = "/repository"

// filesystem shows Kustomize a bench. It is read only.
type filesystem struct {
	bench *bench
	// kustomization is called with each kustomization file that is read, and returns
	// what Kustomize is to read.
	kustomization func(name string, data []byte) ([]byte, error)
}

var errReadOnly = errors.New("the repository is read only")

// inside returns a path's name in the repository; false where it leads out of it.
func inside(name string) (string, bool) {
	name = path.Clean(name)
	if name == mount {
		return ".", true
	}
	return strings.CutPrefix(name, mount+"/")
}

func missing(op, name string) error {
	return &fs.PathError{Op: op, Path: strings.TrimPrefix(name, mount+"/"), Err: fs.ErrNotExist}
}

// ReadFile implements filesys.FileSystem.
func (f filesystem) ReadFile(name string) ([]byte, error) {
	relative, ok := inside(name)
	if !ok || f.bench.stopped() {
		return nil, missing("read", name)
	}
	if isFile, _ := f.bench.look(relative); !isFile {
		return nil, missing("read", name)
	}
	data, err := f.bench.read(relative)
	if err == nil && isKustomization(relative) {
		data, err = f.kustomization(relative, data)
	}
	return data, err
}

// CleanedAbs implements filesys.FileSystem.
func (f filesystem) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	relative, ok := inside(name)
	if !ok {
		return "", "", missing("look up", name)
	}
	isFile, isDir := f.bench.look(relative)
	switch {
	case isDir:
		return filesys.ConfirmedDir(path.Clean(name)), "", nil
	case isFile:
		return filesys.ConfirmedDir(path.Dir(path.Clean(name))), path.Base(name), nil
	default:
		return "", "", missing("look up", name)
	}
}

// IsDir implements filesys.FileSystem.
func (f filesystem) IsDir(name string) bool {
	relative, ok := inside(name)
	if !ok {
		return false
	}
	_, isDir := f.bench.look(relative)
	return isDir
}

// Exists implements filesys.FileSystem.
func (f filesystem) Exists(name string) bool {
	relative, ok := inside(name)
	if !ok {
		return false
	}
	isFile, isDir := f.bench.look(relative)
	return isFile || isDir
}

// What follows is not used by a build.

// Create implements filesys.FileSystem.
func (filesystem) Create(string) (filesys.File, error) { return nil, errReadOnly }

// Mkdir implements filesys.FileSystem.
func (filesystem) Mkdir(string) error { return errReadOnly }

// MkdirAll implements filesys.FileSystem.
func (filesystem) MkdirAll(string) error { return errReadOnly }

// RemoveAll implements filesys.FileSystem.
func (filesystem) RemoveAll(string) error { return errReadOnly }

// WriteFile implements filesys.FileSystem.
func (filesystem) WriteFile(string, []byte) error { return errReadOnly }

// Open implements filesys.FileSystem.
func (filesystem) Open(name string) (filesys.File, error) { return nil, missing("open", name) }

// ReadDir implements filesys.FileSystem.
func (filesystem) ReadDir(name string) ([]string, error) { return nil, missing("list", name) }

// Glob implements filesys.FileSystem.
func (filesystem) Glob(pattern string) ([]string, error) {
	return nil, fmt.Errorf("pattern %s: patterns are not supported", pattern)
}

// Walk implements filesys.FileSystem.
func (filesystem) Walk(name string, _ filepath.WalkFunc) error { return missing("walk", name) }

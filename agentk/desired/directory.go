package desired

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// files is a directory. *osFiles is one; tests have one that fails.
type files interface {
	Create(name string) (writable, error)
	Open(name string) (readable, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// Sync makes renames and removals last.
	Sync() error
}

type writable interface {
	io.WriteCloser
	Sync() error
}

type readable interface {
	io.ReadCloser
	Stat() (fs.FileInfo, error)
}

// osFiles is a directory of the machine's.
type osFiles string

var errLaxMode = errors.New("others may read it: Secrets are in it, so make it the agent's own (chmod 700)")

// openFiles makes the directory, or checks that it is nobody else's to read.
func openFiles(path string) (osFiles, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("look at directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // a directory needs its x
			return "", fmt.Errorf("%s: %w: %w", path, errLaxMode, err)
		}
	}
	return osFiles(path), nil
}

func (d osFiles) Create(name string) (writable, error) {
	return os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:wrapcheck // it names the file
}

func (d osFiles) Open(name string) (readable, error) {
	return os.Open(d.path(name)) //nolint:wrapcheck // it names the file
}

func (d osFiles) Rename(from, to string) error {
	return os.Rename(d.path(from), d.path(to)) //nolint:wrapcheck // it names the files
}

func (d osFiles) Remove(name string) error {
	return os.Remove(d.path(name)) //nolint:wrapcheck // it names the file
}

func (d osFiles) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the directory
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (d osFiles) Sync() error {
	dir, err := os.Open(string(d))
	if err != nil {
		return err //nolint:wrapcheck // it names the directory
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d osFiles) path(name string) string { return filepath.Join(string(d), name) }

const (
	// beingWritten, outdated and broken are endings of file names.
	beingWritten = ".new"
	outdated     = ".outdated"
	broken       = ".broken"
)

// replace writes a file anew, in a way that a crash leaves the old or the new one.
// From its beginning on, the old one is there as name.outdated only: what it says is
// known not to be the newest.
func replace(d files, name string, write func(io.Writer) error) error {
	if err := outdate(d, name); err != nil {
		return err
	}
	if err := create(d, name+beingWritten, write); err != nil {
		// It may be what fills the disk.
		return errors.Join(err, removeAny(d, name+beingWritten))
	}
	if err := d.Rename(name+beingWritten, name); err != nil {
		return fmt.Errorf("put in place: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return removeAny(d, name+outdated)
}

// outdate marks a file, if it is there, as not the newest.
func outdate(d files, name string) error {
	err := d.Rename(name, name+outdated)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark as outdated: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

func create(d files, name string, write func(io.Writer) error) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// removeAny removes a file that may not be there.
func removeAny(d files, name string) error {
	if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

package manifests

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Edit looks at an object before it is checked, and may change it. False leaves the
// object out.
type Edit func(object map[string]any) bool

// ParseRendered reads the objects of data, YAML or JSON that a program made of the file
// from.Path, where it is not to be found in these words: what is read, and every
// mistake, is said to be at from. A mistake's line in data is told in its message
// unless whole is true, which says that data is one object. edit may be nil.
func ParseRendered(from Position, data []byte, limits Limits, whole bool, edit Edit) ([]Object, []FileError) {
	limits.MaxFileSize = max(limits.MaxFileSize, limits.MaxTotalSize)
	f := newFile(from.Path, int64(len(data)), limits)
	f.edit = edit
	if f.named(from.Path) {
		f.parse(data)
	}
	for i := range f.result.Objects {
		f.result.Objects[i].Position.Line = from.Line
	}
	for i := range f.result.Errors {
		e := &f.result.Errors[i]
		if !whole && e.Line > 0 {
			e.Message = clip(quoteLine(data, e.Line) + e.Message)
		}
		e.Line = from.Line
	}
	return f.result.Objects, f.result.Errors
}

var yamlKey = regexp.MustCompile(`^[- ]*[A-Za-z0-9_./-]{1,80}:`)

// quoteLine says where in rendered text a mistake is. It tells the key of that line and
// never the value, which may be a secret.
func quoteLine(data []byte, line int) string {
	number := 0
	for text := range strings.Lines(string(data)) {
		if number++; number < line {
			continue
		}
		if key := yamlKey.FindString(text); key != "" {
			return fmt.Sprintf("rendered, at line %d there (\"%s …\"): ", line, strings.TrimSpace(key))
		}
		break
	}
	return fmt.Sprintf("rendered, at line %d there: ", line)
}

// CheckSyntax reads a file of any YAML or JSON documents, and returns what no program
// should be given: what is not YAML, keys that are there twice, nesting and aliases
// beyond the limits.
func CheckSyntax(name string, data []byte, limits Limits) []FileError {
	f := newFile(name, int64(len(data)), limits)
	f.syntaxOnly = true
	if f.named(name) {
		f.parse(data)
	}
	return f.result.Errors
}

// CleanPath returns a path of the repository as the user wrote it, relative to the
// repository's root, or an error that says why it cannot be. "." is the root.
func CleanPath(name string) (string, error) {
	clean := path.Clean("./" + strings.TrimPrefix(name, "/"))
	switch {
	case name == "":
		return "", errors.New("is empty: write a path from the repository's root")
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", errors.New("leads out of the repository: write a path from the repository's root")
	case toValidUTF8(name) != name || strings.ContainsAny(name, "\x00\n"):
		return "", errors.New("is no path")
	case len(name) > maxGlobLength:
		return "", errors.New("is too long")
	}
	return clean, nil
}

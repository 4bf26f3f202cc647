package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// FileResult is what a file holds. It depends on path, bytes and limits alone, so
// it may be kept under the path and the ID of the blob. It is shared and must not be
// changed.
type FileResult struct {
	Path string
	// Size in bytes.
	Size int64
	// Objects in the file's order.
	Objects []Object
	// Errors in the file's order. None: everything in the file was read.
	Errors []FileError
}

// ParseFile reads the objects of a YAML or JSON file.
func ParseFile(path string, data []byte, limits Limits) FileResult {
	f := newFile(path, int64(len(data)), limits)
	if f.named(path) {
		f.parse(data)
	}
	return f.result
}

// TooLarge is the result of a file that is larger than limits allow, and therefore
// was not read.
func TooLarge(path string, size int64, limits Limits) FileResult {
	f := newFile(path, size, limits)
	f.tooLarge()
	return f.result
}

// file gathers the result of one file.
type file struct {
	result FileResult
	limits Limits
	untold int
	// edit may be nil.
	edit Edit
	// syntaxOnly says that it does not matter what the documents hold.
	syntaxOnly bool
}

// newFile makes sure that the path can be told: Git allows any bytes in it, JSON and
// protobuf only UTF-8.
func newFile(path string, size int64, limits Limits) *file {
	return &file{result: FileResult{Path: toValidUTF8(path), Size: size}, limits: limits}
}

// named tells whether the file's name is usable.
func (f *file) named(path string) bool {
	if f.result.Path == path {
		return true
	}
	f.error(&mistake{message: "the file's name is not UTF-8: rename it, or leave it out by the globs"})
	return false
}

func (f *file) tooLarge() {
	f.error(&mistake{message: fmt.Sprintf("the file has %d bytes, more than the limit of %d: split it, or leave it out by the globs", f.result.Size, f.limits.MaxFileSize)})
}

func (f *file) parse(data []byte) {
	if f.result.Size > f.limits.MaxFileSize {
		f.tooLarge()
		return
	}
	if bytes.HasPrefix(data, []byte("\xFF\xFE")) || bytes.HasPrefix(data, []byte("\xFE\xFF")) {
		f.error(mistakef(1, "the file is UTF-16: save it as UTF-8"))
		return
	}
	data = bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))
	if !utf8.Valid(data) {
		f.error(mistakef(invalidLine(data), "not UTF-8: save the file as UTF-8, or leave it out by the globs"))
		return
	}
	if !looksLikeJSON(data) || !f.parseJSON(data) {
		f.parseYAML(data)
	}
	if f.untold > 0 {
		f.result.Errors = append(f.result.Errors, FileError{Path: f.result.Path, Message: fmt.Sprintf("%d more mistakes in this file", f.untold)})
	}
}

// parseJSON returns false, and changes nothing, where the file is rather YAML.
func (f *file) parseJSON(data []byte) bool {
	docs, syntax, err := parseJSON(data, f.limits)
	if syntax && path.Ext(f.result.Path) != ".json" {
		return false
	}
	for _, doc := range docs {
		f.document(doc)
	}
	if err != nil {
		f.error(err)
	}
	return true
}

func (f *file) parseYAML(data []byte) {
	documents := 0
	for _, c := range split(data) {
		if isBlank(c.text) {
			continue
		}
		if documents++; documents > f.limits.MaxObjects {
			f.error(mistakef(c.line, "the file has more documents than the limit of %d objects: this one and what follows it is left out", f.limits.MaxObjects))
			return
		}
		doc, err := parseYAML(c, f.limits)
		if err != nil {
			f.error(err)
			continue
		}
		f.document(doc)
	}
}

// error notes a *mistake, or an error in no one line.
func (f *file) error(err error) {
	if len(f.result.Errors) >= maxFileErrors {
		f.untold++
		return
	}
	e := FileError{Path: f.result.Path, Message: clip(err.Error())}
	var m *mistake
	if errors.As(err, &m) {
		e.Line = m.line
	}
	f.result.Errors = append(f.result.Errors, e)
}

// document reads a document's object, or the objects of its list.
func (f *file) document(doc document) {
	if doc.value == nil || f.syntaxOnly {
		return
	}
	o, ok := doc.value.(map[string]any)
	if !ok {
		f.error(mistakef(doc.line, "not a Kubernetes object but %s: an object is a map with apiVersion, kind and metadata", describe(doc.value)))
		return
	}
	items, ok := listItems(o)
	if !ok {
		f.object(o, doc.line)
		return
	}
	for i, item := range items {
		line := doc.line
		if i < len(doc.items) {
			line = doc.items[i]
		}
		f.item(o, item, line)
	}
}

// item reads an element of a list, which may be a list again: values nest no deeper
// than MaxDepth.
func (f *file) item(list map[string]any, item any, line int) {
	o, ok := item.(map[string]any)
	if !ok {
		f.error(mistakef(line, "an item of the %s is not a Kubernetes object but %s", list["kind"], describe(item)))
		return
	}
	items, ok := listItems(o)
	if !ok {
		f.object(typed(list, o), line)
		return
	}
	for _, nested := range items {
		f.item(o, nested, line)
	}
}

// listItems returns the elements of a List, or of a list of one kind.
func listItems(o map[string]any) ([]any, bool) {
	kind, _ := o["kind"].(string)
	if !strings.HasSuffix(kind, "List") {
		return nil, false
	}
	switch items := o["items"].(type) {
	case []any:
		return items, true
	case nil:
		_, named := o["items"]
		return nil, kind == "List" && o["apiVersion"] == "v1" || named
	default:
		return nil, false
	}
}

// typed returns the item of a list of one kind with the type that it may leave out.
func typed(list, item map[string]any) map[string]any {
	kind, _ := list["kind"].(string)
	kind = strings.TrimSuffix(kind, "List")
	if kind == "" || item["kind"] != nil || item["apiVersion"] != nil {
		return item
	}
	item["kind"], item["apiVersion"] = kind, list["apiVersion"]
	return item
}

// describe names what v is, for people.
func describe(v any) string {
	switch v := v.(type) {
	case []any:
		return "a list"
	case string:
		return fmt.Sprintf("the text %.40q", v)
	case nil:
		return "nothing"
	case map[string]any:
		return "a map"
	default:
		return fmt.Sprintf("the value %v", v)
	}
}

// invalidLine returns the line of the first byte that is not UTF-8.
func invalidLine(data []byte) int {
	line := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		data = data[size:]
	}
	return line
}

package manifests

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

func parse(path, data string) FileResult { return ParseFile(path, []byte(data), DefaultLimits()) }

func names(objects []Object) []string {
	var list []string
	for i := range objects {
		list = append(list, fmt.Sprintf("%s %s", objects[i].Position, objects[i].ID.Name))
	}
	return list
}

func TestAssemble_OrdersByPathWhateverTheOrderOfFiles(t *testing.T) {
	files := []FileResult{parse("b.yaml", configMap("x")), parse("a/z.yaml", configMap("w")+"---\n"+configMap("z"))}
	set := Assemble(files, "default", DefaultLimits())
	assert.True(t, set.Complete)
	assert.Empty(t, set.Errors)
	assert.Equal(t, []string{"a/z.yaml:1 w", "a/z.yaml:6 z", "b.yaml:1 x"}, names(set.Objects))
	assert.Equal(t, "b.yaml", files[0].Path, "what was passed in stays as it was")
}

func TestAssemble_Duplicates(t *testing.T) {
	ns := func(name, namespace string) string { return configMap(name) + "  namespace: " + namespace + "\n" }
	tests := map[string]struct {
		files []FileResult
		want  []string
		errs  []string
	}{
		"in two files, the first in path order stays": {
			files: []FileResult{parse("b.yaml", configMap("x")), parse("a.yaml", configMap("x"))},
			want:  []string{"a.yaml:1 x"},
			errs:  []string{"b.yaml:1: ConfigMap x is also defined at a.yaml:1, which is the one in force: remove one of them"},
		},
		"in one file": {
			files: []FileResult{parse("a.yaml", configMap("x")+"---\n"+configMap("x"))},
			want:  []string{"a.yaml:1 x"},
			errs:  []string{"a.yaml:6: ConfigMap x is also defined at a.yaml:1, which is the one in force: remove one of them"},
		},
		"one names the default namespace and one names none": {
			files: []FileResult{parse("a.yaml", configMap("x")), parse("b.yaml", ns("x", "team"))},
			want:  []string{"a.yaml:1 x"},
			errs:  []string{"b.yaml:1: ConfigMap team/x is also defined at a.yaml:1, which is the one in force: remove one of them"},
		},
		"another version of the same kind": {
			files: []FileResult{parse("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"), parse("b.yaml", "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: x}\n")},
			want:  []string{"a.yaml:1 x"},
			errs:  []string{"b.yaml:1: Deployment.apps x is also defined at a.yaml:1, which is the one in force: remove one of them"},
		},
		"another namespace, group or kind is another object": {
			files: []FileResult{parse("a.yaml", configMap("x")), parse("b.yaml", ns("x", "other")), parse("c.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n")},
			want:  []string{"a.yaml:1 x", "b.yaml:1 x", "c.yaml:1 x"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set := Assemble(tt.files, "team", DefaultLimits())
			assert.Equal(t, tt.want, names(set.Objects))
			assert.Equal(t, tt.errs, messages(set.Errors))
			assert.Equal(t, len(tt.errs) == 0, set.Complete)
		})
	}
}

func TestAssemble_Limits(t *testing.T) {
	files := []FileResult{parse("a.yaml", configMap("a")), parse("b.yaml", configMap("b")+"---\n"+configMap("c")), parse("d.yaml", "x")}
	tests := map[string]struct {
		change func(*Limits)
		want   []string
		errs   []string
	}{
		"files": {
			change: func(l *Limits) { l.MaxFiles = 1 },
			want:   []string{"a.yaml:1 a"},
			errs:   []string{"b.yaml: the globs select 3 files, more than the limit of 1: this one and what follows it is left out"},
		},
		"bytes of all files": {
			change: func(l *Limits) { l.MaxTotalSize = 60 },
			want:   []string{"a.yaml:1 a"},
			errs:   []string{"b.yaml: the selected files have more bytes together than the limit of 60: this one and what follows it is left out"},
		},
		"objects": {
			change: func(l *Limits) { l.MaxObjects = 2 },
			want:   []string{"a.yaml:1 a", "b.yaml:1 b"},
			errs:   []string{"b.yaml:6: the repository has more objects than the limit of 2: this one and what follows it is left out"},
		},
		"errors": {
			change: func(l *Limits) { l.MaxErrors = 0 },
			want:   []string{"a.yaml:1 a", "b.yaml:1 b", "b.yaml:6 c"},
			errs:   []string{"1 more mistakes in the repository"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			limits := DefaultLimits()
			tt.change(&limits)
			set := Assemble(files, "default", limits)
			assert.Equal(t, tt.want, names(set.Objects))
			assert.Equal(t, tt.errs, messages(set.Errors))
			assert.False(t, set.Complete)
		})
	}
}

func TestDelta_IsWhatIsNotHeld(t *testing.T) {
	before := Assemble([]FileResult{parse("a.yaml", configMap("a")), parse("b.yaml", configMap("b"))}, "", DefaultLimits())
	after := Assemble([]FileResult{parse("moved.yaml", configMap("a")), parse("b.yaml", configMap("b")+"data: {x: y}\n"), parse("c.yaml", configMap("c"))}, "", DefaultLimits())
	assert.Equal(t, []string{"b.yaml:1 b", "c.yaml:1 c"}, names(Delta(&after, before.Digests())))
	assert.Empty(t, Delta(&after, after.Digests()))
	assert.Len(t, Delta(&after, nil), 3)
}

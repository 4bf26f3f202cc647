package manifests

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSelector_Match(t *testing.T) {
	tests := map[string]struct {
		globs     []string
		want, not []string
	}{
		"by default, every YAML and JSON file": {
			want: []string{"a.yaml", "a/b/c.yml", "a.json"},
			not:  []string{"README.md", "a.yaml.tmpl", "yaml"},
		},
		"what is hidden is never selected": {
			globs: []string{"**/*", ".gitlab/**/*.yaml"},
			want:  []string{"a/b.yaml"},
			not:   []string{".gitlab-ci.yml", ".gitlab/agents/a/config.yaml", "a/.b/c.yaml", "a/.hidden.yaml"},
		},
		"with and without a leading slash": {
			globs: []string{"/a/*.yaml", "b/*.yaml"},
			want:  []string{"a/x.yaml", "b/x.yaml"},
			not:   []string{"a/a/x.yaml", "x.yaml"},
		},
		"one file": {globs: []string{"/a.yaml"}, want: []string{"a.yaml"}, not: []string{"b/a.yaml"}},
		"a directory and all below": {
			globs: []string{"/team/**/*.yaml"},
			want:  []string{"team/a.yaml", "team/x/y/a.yaml"},
			not:   []string{"teams/a.yaml"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := NewSelector(tt.globs)
			require.NoError(t, err)
			for _, path := range tt.want {
				assert.True(t, s.Match(path), path)
			}
			for _, path := range tt.not {
				assert.False(t, s.Match(path), path)
			}
		})
	}
}

func TestSelector_Select_IsSorted(t *testing.T) {
	s, err := NewSelector(nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.yaml", "b.yaml"}, s.Select([]string{"b.yaml", "x", "a.yaml"}))
}

func TestSelector_Key_IgnoresOrderAndSlashes(t *testing.T) {
	a, err := NewSelector([]string{"/x/*", "y/*", "x/*"})
	require.NoError(t, err)
	b, err := NewSelector([]string{"y/*", "x/*"})
	require.NoError(t, err)
	assert.Equal(t, a.Key(), b.Key())
	assert.Equal(t, []string{"x/*", "y/*"}, a.Globs())
}

func TestNewSelector_RefusesBadGlobs(t *testing.T) {
	for glob, want := range map[string]string{
		"a[":                      `glob "a[" is not a valid pattern: check its brackets and braces`,
		"{a,b":                    `glob "{a,b" is not a valid pattern: check its brackets and braces`,
		"/":                       `glob "/" names no file: write a pattern like "/**/*.{yaml,yml,json}"`,
		strings.Repeat("a", 2000): `glob "` + strings.Repeat("a", 40) + `"… is longer than 1024 bytes`,
	} {
		_, err := NewSelector([]string{"ok", glob})
		assert.EqualError(t, err, want)
	}
}

func FuzzSelector(f *testing.F) {
	f.Add(DefaultGlob, "a/b.yaml")
	f.Add("{a,{b,c}}/[!x]?", "a/y")
	f.Add("**/**/**/*a*a*a*", "a/a/a/aaaaaaaa")
	f.Fuzz(func(t *testing.T, glob, path string) {
		s, err := NewSelector([]string{glob})
		if err != nil {
			return
		}
		if s.Match(path) && (strings.HasPrefix(path, ".") || strings.Contains(path, "/.")) {
			t.Fatalf("%q selects the hidden %q", glob, path)
		}
	})
}

func TestNewSelector_BoundsWhatBracesStandFor(t *testing.T) {
	for name, row := range map[string]struct {
		glob string
		ok   bool
	}{
		"the default":              {DefaultGlob, true},
		"as many as are allowed":   {strings.Repeat("{a,b,c,d,e,f,g,h,i,j}", 3), true},
		"a few too many":           {strings.Repeat("{a,b,c,d,e,f,g,h,i,j}", 3) + "{a,b}", false},
		"a bomb":                   {strings.Repeat("{a,a}", 200), false},
		"a nested bomb":            {"{" + strings.Repeat("{a,a}", 150) + ",x}", false},
		"nested, but few":          {"{a,{b,c},{d,{e,f}}}/*.yaml", true},
		"braces that are escaped":  {strings.Repeat(`\{a,b\}`, 50), true},
		"commas outside of braces": {strings.Repeat("a,", 200), true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewSelector([]string{row.glob}); (err == nil) != row.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

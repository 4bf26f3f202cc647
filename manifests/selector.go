package manifests

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// DefaultGlob selects what GitLab selects by default.
const DefaultGlob = "/**/*.{yaml,yml,json}"

const (
	// maxGlobLength in bytes: matching a longer pattern may take long.
	maxGlobLength = 1024
	// maxAlternatives is how many patterns the braces of one may stand for: each is tried.
	maxAlternatives = 1000
)

// Selector tells which paths of a repository are manifests.
type Selector struct {
	globs []string
}

// NewSelector returns a selector of the paths that match any of the doublestar
// patterns; none stands for DefaultGlob. Patterns are relative to the repository's
// root, with or without a leading slash. The error names the bad pattern.
func NewSelector(globs []string) (*Selector, error) {
	if len(globs) == 0 {
		globs = []string{DefaultGlob}
	}
	s := &Selector{globs: make([]string, 0, len(globs))}
	for _, glob := range globs {
		relative := strings.TrimPrefix(glob, "/")
		switch {
		case relative == "":
			return nil, fmt.Errorf("glob %q names no file: write a pattern like %q", glob, DefaultGlob)
		case len(glob) > maxGlobLength:
			return nil, fmt.Errorf("glob %.40q… is longer than %d bytes", glob, maxGlobLength)
		case !doublestar.ValidatePattern(relative):
			return nil, fmt.Errorf("glob %q is not a valid pattern: check its brackets and braces", glob)
		}
		if alternatives(relative) > maxAlternatives {
			return nil, fmt.Errorf("glob %.40q… has braces that stand for more than %d patterns: write several globs", glob, maxAlternatives)
		}
		if !slices.Contains(s.globs, relative) {
			s.globs = append(s.globs, relative)
		}
	}
	slices.Sort(s.globs) // so that equal sets of globs have equal keys
	return s, nil
}

// alternatives counts, up to a little beyond maxAlternatives, the patterns that a valid
// glob's braces stand for.
func alternatives(glob string) int {
	type group struct{ sum, product int } // of the branches that are over, and of this one
	open := []group{{product: 1}}
	for i := 0; i < len(glob); i++ {
		top := &open[len(open)-1]
		switch glob[i] {
		case '\\':
			i++ // what follows means itself
		case '{':
			open = append(open, group{product: 1})
		case ',':
			top.sum, top.product = top.sum+top.product, 1
		case '}':
			if len(open) > 1 {
				inner := top.sum + top.product
				open = open[:len(open)-1]
				outer := &open[len(open)-1]
				outer.product = min(outer.product*inner, maxAlternatives+1)
			}
		}
	}
	return open[0].product
}

// Key is equal for selectors that select the same by the same patterns.
func (s *Selector) Key() string { return strings.Join(s.globs, "\x00") }

// Globs returns the patterns, sorted and without a leading slash.
func (s *Selector) Globs() []string { return slices.Clone(s.globs) }

// Match tells whether path, relative to the repository's root, is selected. What
// lies in a hidden directory, or is itself hidden, never is.
func (s *Selector) Match(path string) bool {
	if hidden(path) {
		return false
	}
	for _, glob := range s.globs {
		if doublestar.MatchUnvalidated(glob, path) {
			return true
		}
	}
	return false
}

// Select returns the paths that match, sorted.
func (s *Selector) Select(paths []string) []string {
	var selected []string
	for _, path := range paths {
		if s.Match(path) {
			selected = append(selected, path)
		}
	}
	slices.Sort(selected)
	return selected
}

func hidden(path string) bool {
	return strings.HasPrefix(path, ".") || strings.Contains(path, "/.")
}

package protoconf

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

const (
	// maxExpanded is how many bytes the aliases of one file may expand to.
	maxExpanded = 1 << 20
	// perNode is what a node counts besides its text.
	perNode = 16
)

// plain returns the document without aliases and merge keys, which protoyaml does not
// know: as text, and for each of its lines the line of the original that it is from. A
// document without any comes back as it is, with nil lines.
func plain(path string, data []byte, doc *yaml.Node) ([]byte, []int, error) {
	if !hasAlias(doc) {
		return data, nil, nil
	}
	e := &expander{path: path, budget: maxExpanded}
	root, err := e.expand(doc)
	if err != nil {
		return nil, nil, err
	}
	text, err := yaml.Marshal(root)
	if err != nil {
		return nil, nil, fmt.Errorf("write without aliases: %w", err)
	}
	var written yaml.Node
	if err := yaml.Unmarshal(text, &written); err != nil {
		return nil, nil, fmt.Errorf("read without aliases: %w", err)
	}
	// The two trees are the same but for their lines.
	lines := make([]int, 1+max(lastLine(&written), 1))
	mapLines(&written, root, lines)
	for i := 1; i < len(lines); i++ {
		if lines[i] == 0 { // inside a text of several lines
			lines[i] = lines[i-1]
		}
	}
	return text, lines, nil
}

// hasAlias also finds merge keys: one without an alias is written with a map of its own.
func hasAlias(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Kind == yaml.ScalarNode && n.Tag == mergeTag {
		return true
	}
	return slices.ContainsFunc(n.Content, hasAlias)
}

const mergeTag = "!!merge"

// expander puts in place of aliases and merge keys what they stand for.
type expander struct {
	path   string
	budget int
	// open holds the anchors that are being expanded.
	open []*yaml.Node
}

func (e *expander) mistake(n *yaml.Node, message string) error {
	return &Error{Path: e.path, Line: n.Line, Message: message}
}

// expand returns a copy in the block style, in which no two keys share a line.
func (e *expander) expand(n *yaml.Node) (*yaml.Node, error) {
	if e.budget -= perNode + len(n.Value); e.budget < 0 {
		return nil, e.mistake(n, fmt.Sprintf("aliases expand to more than the limit of %d bytes: write the values out", maxExpanded))
	}
	if n.Kind == yaml.AliasNode {
		if slices.Contains(e.open, n.Alias) {
			return nil, e.mistake(n, fmt.Sprintf("anchor %q contains itself", n.Value))
		}
		e.open = append(e.open, n.Alias)
		defer func() { e.open = e.open[:len(e.open)-1] }()
		return e.expand(n.Alias)
	}
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Line: n.Line, Column: n.Column, Style: n.Style &^ yaml.FlowStyle}
	if n.Kind == yaml.MappingNode {
		return c, e.mapping(c, n)
	}
	for _, child := range n.Content {
		expanded, err := e.expand(child)
		if err != nil {
			return nil, err
		}
		c.Content = append(c.Content, expanded)
	}
	return c, nil
}

// mapping fills c with n's own pairs, and then with those of merge keys that n itself
// does not have.
func (e *expander) mapping(c, n *yaml.Node) error {
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == mergeTag {
			merges = append(merges, value)
			continue
		}
		for _, part := range []*yaml.Node{key, value} {
			expanded, err := e.expand(part)
			if err != nil {
				return err
			}
			c.Content = append(c.Content, expanded)
		}
	}
	for _, merged := range merges {
		expanded, err := e.expand(merged)
		if err != nil {
			return err
		}
		sources := []*yaml.Node{expanded}
		if expanded.Kind == yaml.SequenceNode {
			sources = expanded.Content
		}
		for _, source := range sources { // earlier ones go before
			if source.Kind != yaml.MappingNode {
				return e.mistake(merged, "<< needs a map, an alias of one, or a list of those")
			}
			addMissing(c, source)
		}
	}
	return nil
}

func addMissing(c, source *yaml.Node) {
	for i := 0; i+1 < len(source.Content); i += 2 {
		if at, _ := pairOf(c, source.Content[i].Value); at == nil {
			c.Content = append(c.Content, source.Content[i], source.Content[i+1])
		}
	}
}

// pairOf returns the key's own node and its value; nil where a map does not have it.
func pairOf(mapping *yaml.Node, key string) (at, value *yaml.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, child := range n.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// mapLines notes, for the lines on which nodes were written, where they come from.
func mapLines(written, original *yaml.Node, lines []int) {
	if lines[written.Line] == 0 {
		lines[written.Line] = original.Line
	}
	for i := range min(len(written.Content), len(original.Content)) {
		mapLines(written.Content[i], original.Content[i], lines)
	}
}

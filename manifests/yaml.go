package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is one document of a file, decoded. A nil value is an empty document.
type document struct {
	value any
	// line of the first key, from 1.
	line int
	// items has the lines of the elements of the top-level key "items".
	items []int
}

// mistake is an error at a line of the file.
type mistake struct {
	line    int
	message string
}

func (m *mistake) Error() string { return m.message }

func mistakef(line int, format string, args ...any) *mistake {
	return &mistake{line: line, message: fmt.Sprintf(format, args...)}
}

// parseYAML decodes one document. Its errors are *mistake.
func parseYAML(c chunk, limits Limits) (document, error) {
	root, err := yamlNode(c.text)
	if err != nil {
		return document{}, syntaxMistake(c, err)
	}
	if root == nil {
		return document{}, nil
	}
	b := &builder{limits: limits, offset: c.line - 1, budget: limits.MaxAliasSize}
	value, err := b.value(root, 1)
	if err != nil {
		return document{}, err
	}
	doc := document{value: value, line: b.line(root)}
	if root.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(root.Content); i += 2 {
			if root.Content[i].Value == "items" && root.Content[i+1].Kind == yaml.SequenceNode {
				for _, item := range root.Content[i+1].Content {
					doc.items = append(doc.items, b.line(item))
				}
			}
		}
	}
	return doc, nil
}

// yamlNode returns the root node of text, which holds at most one document.
func yamlNode(text []byte) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil { // the parser's own faults are no reason to fall
			root, err = nil, fmt.Errorf("the YAML parser failed: %v", r)
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := decoder.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err //nolint:wrapcheck // syntaxMistake words it for people
	}
	// Decode stops at the document's end; what follows must be nothing.
	var more yaml.Node
	if err := decoder.Decode(&more); err == nil {
		return nil, errors.New("more than one document without a --- line between them")
	} else if !errors.Is(err, io.EOF) {
		return nil, err //nolint:wrapcheck // syntaxMistake words it for people
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// builder turns nodes into what JSON can hold.
type builder struct {
	limits Limits
	// offset is added to the nodes' lines.
	offset int
	// budget is how many bytes aliases may still expand to.
	budget int
	// open holds the anchors that are being expanded.
	open []*yaml.Node
}

func (b *builder) line(n *yaml.Node) int { return n.Line + b.offset }

func (b *builder) value(n *yaml.Node, depth int) (any, error) {
	if depth > b.limits.MaxDepth {
		return nil, mistakef(b.line(n), "nested deeper than the limit of %d levels", b.limits.MaxDepth)
	}
	if len(b.open) > 0 {
		const perNode = 16
		if b.budget -= perNode + len(n.Value); b.budget < 0 {
			return nil, mistakef(b.line(n), "aliases expand to more than the limit of %d bytes: write the values out, or split the document", b.limits.MaxAliasSize)
		}
	}
	switch n.Kind {
	case yaml.MappingNode:
		return b.mapping(n, depth)
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			v, err := b.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	case yaml.ScalarNode:
		return b.scalar(n)
	case yaml.AliasNode:
		return b.alias(n, func(target *yaml.Node) (any, error) { return b.value(target, depth) })
	default:
		return nil, mistakef(b.line(n), "not a value")
	}
}

func (b *builder) scalar(n *yaml.Node) (any, error) {
	v, err := scalar(n)
	if err != nil {
		return nil, mistakef(b.line(n), "%v", err)
	}
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return nil, mistakef(b.line(n), "Kubernetes has no number %s: put it in quotes if it is a string", n.Value)
	}
	return v, nil
}

// alias calls expand with what n stands for.
func (b *builder) alias(n *yaml.Node, expand func(*yaml.Node) (any, error)) (any, error) {
	for _, open := range b.open {
		if open == n.Alias {
			return nil, mistakef(b.line(n), "anchor %q contains itself", n.Value)
		}
	}
	b.open = append(b.open, n.Alias)
	v, err := expand(n.Alias)
	b.open = b.open[:len(b.open)-1]
	return v, err
}

func (b *builder) mapping(n *yaml.Node, depth int) (any, error) {
	m := make(map[string]any, len(n.Content)/2)
	var merged map[string]bool // keys that came by a merge may be overridden
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if isMerge(k) {
			if merged == nil {
				merged = map[string]bool{}
			}
			if err := b.merge(v, m, merged, depth); err != nil {
				return nil, err
			}
			continue
		}
		key, err := b.key(k)
		if err != nil {
			return nil, err
		}
		if _, taken := m[key]; taken && !merged[key] {
			return nil, mistakef(b.line(k), "key %q is already set at line %d: remove one of them", key, b.firstLine(n, key))
		}
		delete(merged, key)
		if m[key], err = b.value(v, depth+1); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func isMerge(k *yaml.Node) bool {
	return k.Kind == yaml.ScalarNode && k.Value == "<<" && !isQuoted(k) &&
		(k.Style&yaml.TaggedStyle == 0 || k.Tag == tagMerge)
}

// merge puts the pairs of a "<<" key's value into m, over what is there, as kubectl
// does.
func (b *builder) merge(v *yaml.Node, m map[string]any, merged map[string]bool, depth int) error {
	sources := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		sources = v.Content
	}
	for i := len(sources) - 1; i >= 0; i-- { // earlier ones take precedence
		value, err := b.value(sources[i], depth)
		if err != nil {
			return err
		}
		pairs, ok := value.(map[string]any)
		if !ok {
			return mistakef(b.line(v), "<< needs a map, an alias of one, or a list of those")
		}
		for key, value := range pairs {
			m[key] = value
			merged[key] = true
		}
	}
	return nil
}

func (b *builder) key(k *yaml.Node) (string, error) {
	if k.Kind == yaml.AliasNode && k.Alias.Kind == yaml.ScalarNode {
		k = k.Alias
	}
	if k.Kind != yaml.ScalarNode {
		return "", mistakef(b.line(k), "a key must be a string, not a map or a list (a template that was not rendered?)")
	}
	v, err := scalar(k)
	if err != nil {
		return "", mistakef(b.line(k), "%v", err)
	}
	key, err := keyString(v)
	if err != nil {
		return "", mistakef(b.line(k), "%v", err)
	}
	return key, nil
}

// firstLine returns the line of the first key in n that reads key.
func (b *builder) firstLine(n *yaml.Node, key string) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k, err := b.key(n.Content[i]); err == nil && k == key {
			return b.line(n.Content[i])
		}
	}
	return b.line(n)
}

var yamlErrorLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// syntaxMistake words what the parser said about c.
func syntaxMistake(c chunk, err error) *mistake {
	said := yamlErrorLine.FindStringSubmatch(err.Error())
	message := strings.TrimPrefix(err.Error(), said[0])
	if line, ok := tabLine(c.text); ok && strings.Contains(message, "cannot start any token") ||
		ok && strings.Contains(message, "tab character") {
		return mistakef(c.line+line-1, "a tab is used for indentation: YAML allows only spaces there")
	}
	m := mistakef(c.line+errorLine(c.text, said[1], message)-1, "not valid YAML: %s", message)
	if bytes.Contains(c.text, []byte("{{")) {
		m.message += " (a template? it must be rendered before it is committed, or left out by the globs)"
	}
	return m
}

// tabLine returns the first line of text that is indented with a tab.
func tabLine(text []byte) (int, bool) {
	line := 0
	for l := range bytes.Lines(text) {
		line++
		indent := l[:len(l)-len(bytes.TrimLeft(l, " \t-"))]
		if bytes.IndexByte(indent, '\t') >= 0 && len(bytes.TrimSpace(l)) > 0 {
			return line, true
		}
	}
	return 0, false
}

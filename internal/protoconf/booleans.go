package protoconf

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// booleanWords are those of YAML 1.1 that protoyaml does not know: in lower case, with a
// capital, and in capitals.
var booleanWords = map[string]string{"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}

// booleans returns data with true and false in the place of YAML 1.1's other words for
// them, where m wants a boolean. Lines stay as they are.
func booleans(data []byte, doc *yaml.Node, m protoreflect.MessageDescriptor) []byte {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return data
	}
	found := map[*yaml.Node]string{}
	findBooleans(doc.Content[0], m, found, 0)
	if len(found) == 0 {
		return data
	}
	nodes := make([]*yaml.Node, 0, len(found))
	for n := range found {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *yaml.Node) int { // the last first, so that places hold
		return cmp.Or(cmp.Compare(b.Line, a.Line), cmp.Compare(b.Column, a.Column))
	})
	lines := bytes.SplitAfter(data, []byte("\n"))
	for _, n := range nodes {
		if n.Line <= len(lines) {
			lines[n.Line-1] = replaceAt(lines[n.Line-1], n, found[n])
		}
	}
	return bytes.Join(lines, nil)
}

// replaceAt returns the line with word in n's place.
func replaceAt(line []byte, n *yaml.Node, word string) []byte {
	start := 0
	for range n.Column - 1 { // columns count characters
		_, size := utf8.DecodeRune(line[min(start, len(line)):])
		start += size
	}
	rest := line[min(start, len(line)):]
	if n.Anchor != "" {
		after, ok := bytes.CutPrefix(rest, []byte("&"+n.Anchor))
		if !ok {
			return line
		}
		after = bytes.TrimLeft(after, " ")
		start += len(rest) - len(after)
		rest = after
	}
	after, ok := bytes.CutPrefix(rest, []byte(n.Value))
	if !ok {
		return line
	}
	return slices.Concat(line[:start], []byte(word), after)
}

// maxNesting of messages that are looked into; the configuration has far less.
const maxNesting = 50

func findBooleans(n *yaml.Node, m protoreflect.MessageDescriptor, found map[*yaml.Node]string, depth int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != yaml.MappingNode || depth > maxNesting {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == mergeTag {
			for _, source := range each(value) {
				findBooleans(source, m, found, depth+1)
			}
			continue
		}
		field := m.Fields().ByTextName(key.Value)
		if field == nil {
			field = m.Fields().ByJSONName(key.Value)
		}
		if field == nil || field.IsMap() {
			continue
		}
		values := []*yaml.Node{value}
		if field.IsList() {
			values = each(value)
		}
		for _, v := range values {
			switch field.Kind() {
			case protoreflect.MessageKind:
				findBooleans(v, field.Message(), found, depth+1)
			case protoreflect.BoolKind:
				if v.Kind == yaml.AliasNode {
					v = v.Alias
				}
				if word, ok := booleanOf(v); ok {
					found[v] = word
				}
			default:
			}
		}
	}
}

// each returns the items of a list, or what stands alone.
func each(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

func booleanOf(n *yaml.Node) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Style != 0 {
		return "", false
	}
	lower := strings.ToLower(n.Value)
	word, ok := booleanWords[lower]
	switch n.Value {
	case lower, strings.ToUpper(lower):
		return word, ok
	default:
		return word, ok && n.Value[1:] == lower[1:] // a capital, and the rest small
	}
}

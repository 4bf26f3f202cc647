package protoconf

import (
	"strconv"

	"go.yaml.in/yaml/v3"
)

// LineOf finds the line of a value in a file by the keys and indexes that lead to it, or
// of the nearest thing around it; zero where there is none.
func LineOf(data []byte, keys []string) int {
	var doc yaml.Node
	if yaml.Unmarshal(data, &doc) != nil || len(doc.Content) == 0 {
		return 0
	}
	if expanded, err := (&expander{budget: maxExpanded}).expand(&doc); err == nil {
		doc = *expanded
	}
	node := doc.Content[0]
	line := node.Line
	for _, key := range keys {
		at, value := childOf(node, key)
		if value == nil {
			break
		}
		node, line = value, at.Line
	}
	return line
}

// childOf returns where a child stands, and the child.
func childOf(node *yaml.Node, key string) (at, value *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode:
		return pairOf(node, key)
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	}
	return nil, nil
}

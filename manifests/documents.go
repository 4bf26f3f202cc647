package manifests

import (
	"bytes"
)

// chunk is the text of one YAML document.
type chunk struct {
	text []byte
	// line of the text's first line in the file, from 1.
	line int
}

// split cuts a YAML file into its documents by their markers alone, as kubectl
// does, so that a mistake in one document cannot hide the next. Each text keeps its
// "---" line, because a document may begin on it.
func split(data []byte) []chunk {
	var chunks []chunk
	current := chunk{line: 1}
	start := 0 // offset of current's text
	line := 0
	flush := func(end, next, nextLine int) {
		current.text = data[start:end]
		chunks = append(chunks, current)
		start, current = next, chunk{line: nextLine}
	}
	for offset := 0; offset < len(data); {
		line++
		end := len(data)
		if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
			end = offset + i + 1
		}
		text := data[offset:end]
		switch {
		case isMarker(text, "---") && !isPreamble(data[start:offset]):
			flush(offset, offset, line)
		case isMarker(text, "..."):
			flush(offset, end, line+1)
		}
		offset = end
	}
	flush(len(data), len(data), line)
	return chunks
}

// isMarker tells whether a line is a document marker.
func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// isBlank tells whether a document's text holds nothing but comments.
func isBlank(text []byte) bool {
	if isMarker(text, "---") {
		text = text[len("---"):]
	}
	for line := range bytes.Lines(text) {
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] != '#' {
			return false
		}
	}
	return true
}

// isPreamble tells whether text holds only what may stand before a document's
// "---": directives, comments and empty lines.
func isPreamble(text []byte) bool {
	for line := range bytes.Lines(text) {
		trimmed := bytes.TrimSpace(line)
		if len(trimmed) > 0 && trimmed[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

package manifests

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// errorLine returns the line of text, from 1, at which the parser stumbled. The
// parser tells where the construct around the mistake begins, and often one line
// too low; how far it had read is closer to the mistake.
func errorLine(text []byte, said, message string) int {
	if strings.Contains(message, "unexpected end of stream") || strings.Contains(message, "unexpected document indicator") ||
		strings.Contains(message, "could not find expected ':'") {
		// Something was never finished: where it was begun is what helps.
		if line, err := strconv.Atoi(said); err == nil {
			return line
		}
		return 1
	}
	lines := &lineReader{rest: text}
	func() {
		defer func() { _ = recover() }() // see yamlNode
		decoder := yaml.NewDecoder(lines)
		for {
			var n yaml.Node
			if err := decoder.Decode(&n); err != nil {
				return
			}
		}
	}()
	return max(lines.read, 1)
}

// lineReader hands out a line at a time and counts them. Lines after the end of the
// text do not count.
type lineReader struct {
	rest []byte
	read int
}

var errEmptyBuffer = errors.New("empty buffer")

// Read implements io.Reader.
func (r *lineReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, errEmptyBuffer
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	end := bytes.IndexByte(r.rest, '\n') + 1
	if end == 0 {
		end = len(r.rest)
	}
	n := copy(p, r.rest[:end])
	if n == end {
		r.read++
	}
	r.rest = r.rest[n:]
	return n, nil
}

package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
)

// looksLikeJSON tells whether data begins as a JSON map or list does.
func looksLikeJSON(data []byte) bool {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	return len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
}

// parseJSON decodes the JSON values of a file, which may follow each other. With an
// error, which is a *mistake, it returns the values before it; syntax tells whether
// the file is no JSON at all, rather than JSON that asks for something impossible.
func parseJSON(data []byte, limits Limits) (docs []document, syntax bool, err error) {
	r := &jsonReader{data: data, decoder: json.NewDecoder(bytes.NewReader(data)), limits: limits}
	r.decoder.UseNumber()
	for {
		token, err := r.decoder.Token()
		if errors.Is(err, io.EOF) {
			return docs, false, nil
		}
		if err != nil {
			return docs, true, r.mistake(err)
		}
		doc := document{line: r.lineAfterToken()}
		if doc.value, err = r.value(token, 1, &doc); err != nil {
			var m *mistake
			if errors.As(err, &m) {
				return docs, false, m
			}
			return docs, true, r.mistake(err)
		}
		docs = append(docs, doc)
	}
}

type jsonReader struct {
	data    []byte
	decoder *json.Decoder
	limits  Limits
	// counted newlines up to an offset, so that lines cost one pass.
	offset, newlines int
}

// line returns the line that the offset is on.
func (r *jsonReader) line(offset int64) int {
	end := min(int(offset), len(r.data))
	if end < r.offset {
		r.offset, r.newlines = 0, 0
	}
	r.newlines += bytes.Count(r.data[r.offset:end], []byte("\n"))
	r.offset = end
	return r.newlines + 1
}

// here returns the line of the token read last.
func (r *jsonReader) here() int { return r.line(r.decoder.InputOffset()) }

// lineAfterToken returns the line of the first key after the "{" read last.
func (r *jsonReader) lineAfterToken() int {
	offset := int(r.decoder.InputOffset())
	rest := bytes.TrimLeft(r.data[min(offset, len(r.data)):], " \t\r\n")
	return r.line(int64(len(r.data) - len(rest)))
}

// mistake words a syntax error.
func (r *jsonReader) mistake(err error) *mistake {
	offset := r.decoder.InputOffset()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		offset = syntax.Offset
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return mistakef(r.line(int64(len(r.data))), "not valid JSON: the file ends in the middle of a value")
	}
	return mistakef(r.line(offset), "not valid JSON: %v", err)
}

// value reads the rest of the value that begins with token. top is not nil for a
// file's own values, whose items are to be located.
func (r *jsonReader) value(token json.Token, depth int, top *document) (any, error) {
	if depth > r.limits.MaxDepth {
		return nil, mistakef(r.here(), "nested deeper than the limit of %d levels", r.limits.MaxDepth)
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '{' {
			return r.object(depth, top)
		}
		return r.list(depth, nil)
	case json.Number:
		return r.number(token.String())
	default: // string, bool, nil
		return token, nil
	}
}

func (r *jsonReader) number(s string) (any, error) {
	// "-0" is what canonical JSON has for a negative zero: it must read as one again.
	if i, err := strconv.ParseInt(s, 10, 64); err == nil && s != "-0" {
		return i, nil
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return u, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, mistakef(r.here(), "the number %.40s is out of range", s)
	}
	return f, nil
}

func (r *jsonReader) list(depth int, located *[]int) (any, error) {
	list := []any{}
	for r.decoder.More() {
		token, err := r.decoder.Token()
		if err != nil {
			return nil, err //nolint:wrapcheck // mistake words it for people
		}
		if located != nil {
			*located = append(*located, r.lineAfterToken())
		}
		v, err := r.value(token, depth+1, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := r.decoder.Token() // the bracket
	return list, err            //nolint:wrapcheck // mistake words it for people
}

func (r *jsonReader) object(depth int, top *document) (any, error) {
	m := map[string]any{}
	lines := map[string]int{}
	for r.decoder.More() {
		token, err := r.decoder.Token()
		if err != nil {
			return nil, err //nolint:wrapcheck // mistake words it for people
		}
		key, ok := token.(string)
		if !ok {
			return nil, mistakef(r.here(), "a key must be a string")
		}
		if line, taken := lines[key]; taken {
			return nil, mistakef(r.here(), "key %q is already set at line %d: remove one of them", key, line)
		}
		lines[key] = r.here()
		if m[key], err = r.pair(key, depth, top); err != nil {
			return nil, err
		}
	}
	_, err := r.decoder.Token() // the brace
	return m, err               //nolint:wrapcheck // mistake words it for people
}

// pair reads the value of key.
func (r *jsonReader) pair(key string, depth int, top *document) (any, error) {
	token, err := r.decoder.Token()
	if err != nil {
		return nil, err //nolint:wrapcheck // mistake words it for people
	}
	if top != nil && key == "items" && token == json.Delim('[') {
		if depth >= r.limits.MaxDepth {
			return nil, mistakef(r.here(), "nested deeper than the limit of %d levels", r.limits.MaxDepth)
		}
		return r.list(depth+1, &top.items)
	}
	return r.value(token, depth+1, nil)
}

package query

import (
	"bytes"
	"encoding/json"
)

// What is here reads parts of JSON without decoding the rest. The JSON is what the cache
// made; of what is none, nothing is found.

// lookUp returns the value of a field by its path; nil: there is none.
func lookUp(data []byte, path []string) []byte {
	for _, key := range path {
		var found []byte
		members(data, func(k, value []byte) bool {
			if isKey(k, key) {
				found = value
			}
			return found == nil
		})
		if found == nil {
			return nil
		}
		data = found
	}
	return data
}

// isText says whether a value is a text, a number or a truth value that reads so. What is
// none of these reads like an empty text.
func isText(value []byte, text string) bool {
	if len(value) == 0 {
		return text == ""
	}
	switch value[0] {
	case '{', '[', 'n':
		return text == ""
	case '"':
		return isKey(value[1:len(value)-1], text)
	default:
		return string(value) == text
	}
}

// isKey compares what is between the quotes of a JSON string.
func isKey(quoted []byte, text string) bool {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted) == text
	}
	var decoded string
	whole := append(append([]byte{'"'}, quoted...), '"')
	return json.Unmarshal(whole, &decoded) == nil && decoded == text
}

// appendMetadata appends an object with nothing but its apiVersion, kind and metadata.
func appendMetadata(dst, object []byte) []byte {
	var kept [3][]byte
	left := len(kept)
	members(object, func(key, value []byte) bool {
		for i, name := range [...]string{"apiVersion", "kind", "metadata"} {
			if string(key) == name && kept[i] == nil {
				kept[i] = value
				left--
			}
		}
		return left > 0
	})
	separator := byte('{')
	for i, name := range [...]string{`"apiVersion":`, `"kind":`, `"metadata":`} {
		if kept[i] != nil {
			dst = append(append(append(dst, separator), name...), kept[i]...)
			separator = ','
		}
	}
	if separator == '{' {
		dst = append(dst, separator)
	}
	return append(dst, '}')
}

// members calls yield with the members of an object, keys without their quotes and as
// they are written, until it returns false.
func members(object []byte, yield func(key, value []byte) bool) {
	i := space(object, 0)
	if i >= len(object) || object[i] != '{' {
		return
	}
	for i++; ; i++ {
		from := space(object, i)
		to := skip(object, from)
		if to < 0 || object[from] != '"' {
			return
		}
		key := object[from+1 : to-1]
		if i = space(object, to); i >= len(object) || object[i] != ':' {
			return
		}
		from = space(object, i+1)
		if to = skip(object, from); to < 0 || !yield(key, object[from:to]) {
			return
		}
		if i = space(object, to); i >= len(object) || object[i] != ',' {
			return
		}
	}
}

// space returns where white space from i on ends.
func space(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skip returns where the value that begins at i ends; -1: it does not, or is none.
func skip(data []byte, i int) int {
	if i >= len(data) {
		return -1
	}
	switch data[i] {
	case '"':
		return skipText(data, i)
	case '{', '[':
		return skipNested(data, i)
	case '}', ']', ',', ':':
		return -1
	}
	for ; i < len(data); i++ {
		switch data[i] {
		case ',', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
	}
	return i
}

func skipNested(data []byte, i int) int {
	for depth := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			end := skipText(data, i)
			if end < 0 {
				return -1
			}
			i = end - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

func skipText(data []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexByte(data[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for data[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

// Package rawjson reads parts of encoded JSON without decoding the rest, in time that grows
// with the bytes that it passes. In goes JSON that was encoded by encoding/json or may be
// anybody's; out come slices of it. Of what is malformed it finds nothing, or less than
// there is; it never fails.
package rawjson

import (
	"bytes"
	"slices"
)

// metadata are the members of an object of Kubernetes that AppendMetadata keeps, in order.
var metadata = [...]string{"apiVersion", "kind", "metadata"}

// AppendMetadata appends the JSON of an object with nothing but its apiVersion, kind and
// metadata.
func AppendMetadata(dst, object []byte) []byte {
	var kept [len(metadata)][]byte
	left, size := len(metadata), len("{}")
	Members(object, func(key, value []byte) bool {
		for i, name := range metadata {
			if string(key) == name && kept[i] == nil {
				kept[i] = value
				left--
				size += len(`"":,`) + len(name) + len(value)
			}
		}
		return left > 0
	})
	dst = append(slices.Grow(dst, size), '{')
	separator := ""
	for i, name := range metadata {
		if kept[i] != nil {
			dst = append(append(append(append(dst, separator...), '"'), name...), '"', ':')
			dst = append(dst, kept[i]...)
			separator = ","
		}
	}
	return append(dst, '}')
}

// Members calls yield with the members of an object, keys without their quotes and as
// they are written, until it returns false.
func Members(object []byte, yield func(key, value []byte) bool) {
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

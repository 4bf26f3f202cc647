package cache

import (
	"bytes"
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// What is here reads objects that were encoded by encoding/json without decoding them:
// of what is malformed it finds nothing.

// metadataOf returns when an object was created, and its labels.
func metadataOf(object []byte, shared *shared) (created time.Time, set labels.Set) {
	eachMember(object, func(key, value []byte) bool {
		if string(key) != "metadata" {
			return true
		}
		eachMember(value, func(key, value []byte) bool {
			switch string(key) {
			case "creationTimestamp":
				created = timeOf(value)
			case "labels":
				set = shared.labelsOf(value)
			}
			return true
		})
		return false
	})
	return created, set
}

// timeOf decodes a time; zero: it is none.
func timeOf(value []byte) time.Time {
	if len(value) < 2 || value[0] != '"' {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, string(value[1:len(value)-1]))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// onlyMetadata returns the JSON of an object's apiVersion, kind and metadata.
func onlyMetadata(object []byte) []byte {
	names := [...]string{"apiVersion", "kind", "metadata"}
	var found [len(names)][]byte
	left, size := len(names), len("{}")
	eachMember(object, func(key, value []byte) bool {
		for i, name := range names {
			if string(key) == name && found[i] == nil {
				found[i] = value
				left--
				size += len(`"":,`) + len(name) + len(value)
			}
		}
		return left > 0
	})
	out := make([]byte, 1, size)
	out[0] = '{'
	for i, name := range names {
		if found[i] == nil {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), name...), '"', ':')
		out = append(out, found[i]...)
	}
	return append(out, '}')
}

// eachMember calls visit with the members of an object, keys as they stand between
// their quotes, until it returns false.
func eachMember(object []byte, visit func(key, value []byte) bool) {
	if len(object) == 0 || object[0] != '{' {
		return
	}
	for i := 1; i < len(object) && object[i] == '"'; i++ {
		colon := endOfText(object, i)
		if colon < 0 || colon >= len(object) || object[colon] != ':' {
			return
		}
		end := endOfValue(object, colon+1)
		if end < 0 || !visit(object[i+1:colon-1], object[colon+1:end]) {
			return
		}
		if i = end; i >= len(object) || object[i] != ',' {
			return
		}
	}
}

// endOfValue returns where the value that begins at data[i] ends; -1: it does not.
func endOfValue(data []byte, i int) int {
	for depth, from := 0, i; i < len(data); i++ {
		switch data[i] {
		case '"':
			end := endOfText(data, i)
			if end < 0 || depth == 0 {
				return end
			}
			i = end - 1
		case '{', '[':
			depth++
		case '}', ']', ',':
			if depth == 0 { // after a number or a word
				if i == from {
					return -1
				}
				return i
			}
			if data[i] == ',' {
				continue
			}
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// endOfText returns where the text that begins at data[i] ends; -1: it does not.
func endOfText(data []byte, i int) int {
	for i++; i < len(data); {
		quote := bytes.IndexByte(data[i:], '"')
		if quote < 0 {
			return -1
		}
		end := i + quote
		escape := bytes.IndexByte(data[i:end], '\\')
		if escape < 0 {
			return end + 1
		}
		i += escape + 2
	}
	return -1
}

// decodeLabels returns nil for what are none.
func decodeLabels(value []byte) labels.Set {
	var set labels.Set
	if json.Unmarshal(value, &set) != nil {
		return nil
	}
	return set
}

package query

import (
	"bytes"
	"encoding/json"

	"github.com/kas-agentk/kas/internal/rawjson"
)

// What is here reads parts of JSON without decoding the rest. The JSON is what the cache
// made; of what is none, nothing is found.

// lookUp returns the value of a field by its path; nil: there is none.
func lookUp(data []byte, path []string) []byte {
	for _, key := range path {
		var found []byte
		rawjson.Members(data, func(k, value []byte) bool {
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

package inventory

// sortedFields says that the JSON of a set of fields, which is nothing but maps in
// maps, is already what encoding it anew would make of it: nearly always, for that is
// how API servers write it. In doubt it is not.
func sortedFields(data []byte) bool { return endOfFields(data, 0, 0) == len(data) }

// deepestField is how far maps may lie in each other.
const deepestField = 64

// endOfFields returns where the map that begins at data[at] ends; -1: there is none
// that would stay as it is.
func endOfFields(data []byte, at, depth int) int {
	if at >= len(data) || data[at] != '{' || depth > deepestField {
		return -1
	}
	if at++; at < len(data) && data[at] == '}' {
		return at + 1
	}
	var last []byte
	for {
		end := endOfKey(data, at)
		if end < 0 || end >= len(data) || data[end] != ':' {
			return -1
		}
		key := data[at+1 : end-1]
		if last != nil && !lessKey(last, key) {
			return -1
		}
		last = key
		at = endOfFields(data, end+1, depth+1)
		switch {
		case at < 0 || at >= len(data):
			return -1
		case data[at] == '}':
			return at + 1
		case data[at] != ',':
			return -1
		}
		at++
	}
}

// endOfKey returns where the text that begins at data[at] ends; -1: it does not, or
// it holds what could be written in several ways.
func endOfKey(data []byte, at int) int {
	if at >= len(data) || data[at] != '"' {
		return -1
	}
	for at++; at < len(data); at++ {
		switch c := data[at]; {
		case c == '"':
			return at + 1
		case c == '\\':
			if at++; at >= len(data) || data[at] != '"' && data[at] != '\\' {
				return -1
			}
		case c < ' ', c > '~', c == '<', c == '>', c == '&':
			return -1
		}
	}
	return -1
}

// lessKey compares what the keys say, without the backslashes that JSON needs.
func lessKey(a, b []byte) bool {
	for len(a) > 0 && len(b) > 0 {
		if a[0] == '\\' {
			a = a[1:]
		}
		if b[0] == '\\' {
			b = b[1:]
		}
		if a[0] != b[0] {
			return a[0] < b[0]
		}
		a, b = a[1:], b[1:]
	}
	return len(a) < len(b)
}

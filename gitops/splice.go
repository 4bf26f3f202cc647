package gitops

import "bytes"

// spliced is payload made without decoding the object, which costs more than all
// else that an apply takes here: the namespace and the mark of the owner are put into
// the bytes as they are. It returns false where the JSON is not as simple as it
// nearly always is; then it takes the long way.
func spliced(data []byte, namespace, owner string) ([]byte, bool) {
	if !plain(namespace) || !plain(owner) {
		return nil, false
	}
	top, ok := membersOf(data, 0, "metadata")
	if !ok || !top.found || data[top.start] != '{' {
		return nil, false
	}
	annotations, ok := membersOf(data, top.start, "annotations")
	if !ok || annotations.found && data[annotations.start] != '{' {
		return nil, false
	}
	ns, ok := membersOf(data, top.start, "namespace")
	if !ok || namespace == "" && ns.found {
		return nil, false
	}
	mark := `"` + OwnerAnnotation + `":"` + owner + `"`
	var edits [2]edit
	if annotations.found {
		if owners, ok := membersOf(data, annotations.start, OwnerAnnotation); !ok || owners.found {
			return nil, false
		}
		edits[0] = edit{at: annotations.start + 1, until: annotations.start + 1, text: mark}
		if !annotations.empty {
			edits[0].text += ","
		}
	} else {
		edits[0] = edit{at: top.start + 1, until: top.start + 1, text: `"annotations":{` + mark + `}`}
		if !top.empty {
			edits[0].text += ","
		}
	}
	switch {
	case namespace == "":
		edits[1] = edit{at: len(data), until: len(data)}
	case ns.found:
		edits[1] = edit{at: ns.start, until: ns.end, text: `"` + namespace + `"`}
	default:
		// After the "{" of metadata as well, whose first member is there by now.
		edits[1] = edit{at: top.start + 1, until: top.start + 1, text: `"namespace":"` + namespace + `",`}
	}
	if edits[1].at <= edits[0].at {
		edits[0], edits[1] = edits[1], edits[0]
	}
	out := make([]byte, 0, len(data)+len(edits[0].text)+len(edits[1].text))
	at := 0
	for _, e := range edits {
		out = append(append(out, data[at:e.at]...), e.text...)
		at = e.until
	}
	return append(out, data[at:]...), true
}

// edit replaces a part of the JSON.
type edit struct {
	at, until int
	text      string
}

// plain says that a text stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// member is where the value of a key stands, and whether its map, or for a value that
// is a map that one, has no members.
type member struct {
	start, end int
	found      bool
	empty      bool
}

// membersOf looks for a key in the map that begins at data[at]. It returns false where
// the JSON is not canonical, or a key is escaped, which might then be the one.
func membersOf(data []byte, at int, key string) (member, bool) {
	if at >= len(data) || data[at] != '{' {
		return member{}, false
	}
	at++
	var got member
	for at < len(data) && data[at] != '}' {
		nameEnd := endOf(data, at)
		if data[at] != '"' || nameEnd < 0 || nameEnd >= len(data) || data[nameEnd] != ':' {
			return member{}, false
		}
		name := data[at+1 : nameEnd-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			return member{}, false
		}
		start := nameEnd + 1
		end := endOf(data, start)
		if end < 0 {
			return member{}, false
		}
		if string(name) == key {
			if got.found {
				return member{}, false
			}
			got = member{start: start, end: end, found: true, empty: end-start == len("{}")}
		}
		if at = end; at < len(data) && data[at] == ',' {
			at++
		}
	}
	return got, at < len(data)
}

// endOf returns where the value that begins at data[at] ends; -1: it does not.
func endOf(data []byte, at int) int {
	depth := 0
	for at < len(data) {
		switch data[at] {
		case '"':
			if at = endOfString(data, at); at < 0 {
				return -1
			}
			if depth == 0 {
				return at
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return at // of a number or a word before it
			}
			if depth--; depth == 0 {
				return at + 1
			}
		case ',':
			if depth == 0 {
				return at
			}
		case ' ', '\t', '\r', '\n':
			return -1 // not canonical
		}
		at++
	}
	return -1
}

// endOfString returns where the string that begins at data[at] ends; -1: it does not.
func endOfString(data []byte, at int) int {
	for at++; at < len(data); at++ {
		switch data[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return -1
}

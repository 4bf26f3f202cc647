package kubeapi

import (
	"net/url"
	"strings"
)

// parseURL reads the path and query of a request as they go on the wire. Its errors are
// statuses.
func parseURL(raw string) (*url.URL, error) {
	switch {
	case !strings.HasPrefix(raw, "/") || strings.HasPrefix(raw, "//"):
		return nil, invalid("the URL must be a path that begins with one slash")
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }):
		return nil, invalid("the URL has a character that must be encoded")
	}
	u, err := url.ParseRequestURI(raw)
	if err != nil {
		return nil, invalid("the URL cannot be read: it is encoded wrongly")
	}
	if u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || u.Fragment != "" {
		return nil, invalid("the URL must be a path that begins with one slash")
	}
	return u, nil
}

// segmentsOf returns the segments of a decoded path, without an empty last one.
func segmentsOf(path string) []string {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if last := len(segments) - 1; segments[last] == "" {
		segments = segments[:last]
	}
	return segments
}

// checkSegments refuses what servers do not agree on how to read: some would take it for
// another path. own is how many segments the API server reads itself; the others go to a
// Service.
func checkSegments(segments []string, own int) error {
	for i, s := range segments {
		switch {
		case dotted(s):
			return invalid("the path has a segment %.20q", s)
		case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return invalid("the path has a control character")
		case i < own && s == "":
			return invalid("the path has two slashes in a row")
		case i < own && strings.Contains(s, "%"):
			return invalid("the path is encoded twice")
		}
	}
	return nil
}

// dotted says whether a segment is "." or "..", or would be to who decodes it again.
func dotted(segment string) bool {
	for part := range strings.SplitSeq(segment, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	decoded, err := url.PathUnescape(segment)
	return err == nil && decoded != segment && dotted(decoded)
}

func trimSlash(path string) string { return strings.TrimRight(path, "/") }

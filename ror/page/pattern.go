package page

import (
	"net/http"
	"slices"
	"strings"
)

// words of paths below an agent; what else is there is somebody's name.
var words = []string{
	"cluster", "object", "changes", "tokens", "revoke", "sync_status", "diff", "sync", "suspend", "resume", "approve_prune",
}

// maxParts is how many parts the longest of these paths has.
const maxParts = 5

// Pattern is the route of a request that a Server has served.
func Pattern(r *http.Request) string {
	if r.Pattern != "/" {
		return r.Pattern
	}
	_, below, found := strings.Cut(r.URL.Path, "/-/")
	parts := strings.Split(below, "/")
	switch {
	case !found:
		return "/{project}"
	case parts[0] != "cluster_agents" || len(parts) > maxParts:
		return "/{project}/-/{unknown}"
	}
	for i := 1; i < len(parts); i++ {
		if i == 1 || !slices.Contains(words, parts[i]) { // the first is an agent's name, whatever it is
			parts[i] = "{name}"
		}
	}
	return "/{project}/-/" + strings.Join(parts, "/")
}

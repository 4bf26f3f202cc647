package agents

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kas-agentk/kas/api/agentcfg"
)

var (
	resourceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	groupName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
)

// checkPreload checks what is to be kept of the cluster.
func checkPreload(preload []*agentcfg.KeptResource) *mistake {
	type entry struct{ group, resource, shape string }
	first := make(map[entry]int)
	for i, p := range preload {
		at := func(key string) []string { return []string{"cluster_state", "preload", strconv.Itoa(i), key} }
		group, resource := p.GetGroup(), p.GetResource()
		switch {
		case strings.Contains(group, "/"):
			return &mistake{at("group"), fmt.Sprintf(`group %q has a version: write "apps", not "apps/v1"`, group)}
		case group != "" && !groupName.MatchString(group):
			return &mistake{at("group"), fmt.Sprintf(`group %q is no group of resources: write for example "apps", and nothing for the core group`, group)}
		case strings.Contains(resource, "/"):
			return &mistake{at("resource"), fmt.Sprintf("resource %q is a subresource, which cannot be kept", resource)}
		case !resourceName.MatchString(resource):
			return &mistake{at("resource"), fmt.Sprintf(`resource %q is none: write the plural in lower case, for example "deployments", and its group in group`, resource)}
		}
		this := entry{group, resource, cmp.Or(p.GetShape(), DefaultShape)}
		if before, ok := first[this]; ok {
			return &mistake{at("resource"), fmt.Sprintf("%s is there twice in preload, as number %d and number %d: leave one out", resource, before+1, i+1)}
		}
		first[this] = i
	}
	return nil
}

func fillInState(state *agentcfg.ClusterState) {
	if state.GetIdleTimeout().AsDuration() == 0 {
		state.IdleTimeout = durationpb.New(DefaultIdleTimeout)
	}
	for _, p := range state.GetPreload() {
		p.Shape = cmp.Or(p.GetShape(), DefaultShape)
	}
}

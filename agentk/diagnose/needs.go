package diagnose

import (
	"strings"

	"github.com/kas-agentk/kas/api/agentcfg"
)

// need is one permission that agentk needs.
type need struct {
	verb, group, resource, subresource string
	// namespace; empty: all. name; empty: all.
	namespace, name string
	purpose         string
}

// path is how rules of RBAC name the resource.
func (n need) path() string {
	if n.subresource == "" {
		return n.resource
	}
	return n.resource + "/" + n.subresource
}

const (
	purposeLease       = "to elect the replica that works"
	purposeInventory   = "to keep inventories and what people decide"
	purposeSync        = "to sync objects of manifest projects"
	purposeImpersonate = "for access_as of the agent's configuration"
)

// own are those in agentk's own namespace.
func own(namespace string) []need {
	var all []need
	for _, verb := range []string{"get", "create", "update"} {
		all = append(all, need{verb: verb, group: "coordination.k8s.io", resource: "leases", namespace: namespace, purpose: purposeLease})
	}
	for _, verb := range []string{"get", "list", "create", "update", "delete"} {
		all = append(all, need{verb: verb, resource: "configmaps", namespace: namespace, purpose: purposeInventory})
	}
	return all
}

const (
	authenticationGroup = "authentication.k8s.io"
	// extraPrefix is that of the extras with which kas has agentk impersonate.
	extraPrefix = "agent.gitlab.com/"
	// accountPrefix is that of names of users who are service accounts.
	accountPrefix = "system:serviceaccount:"
)

// Extras that kas has impersonated people and jobs bear.
var (
	userExtras = []string{"id", "username", "access_type", "config_project_id"}
	jobExtras  = []string{"id", "config_project_id", "project_id", "ci_pipeline_id", "ci_job_id", "username", "environment_slug", "environment_tier"}
)

// impersonation is what access_as of a configuration asks for. file may be nil.
func impersonation(file *agentcfg.ConfigurationFile) []need {
	all := &needs{seen: map[need]struct{}{}}
	if file.GetUserAccess().GetAccessAs().GetUser() != nil {
		all.impersonate("", "users", "", "")
		all.impersonate("", "groups", "", "gitlab:user")
		all.extras(userExtras)
	}
	for _, project := range file.GetCiAccess().GetProjects() {
		all.jobs(project.GetAccessAs())
	}
	for _, group := range file.GetCiAccess().GetGroups() {
		all.jobs(group.GetAccessAs())
	}
	return all.list
}

// needs collects each need once.
type needs struct {
	list []need
	seen map[need]struct{}
}

func (n *needs) add(one need) {
	if _, twice := n.seen[one]; !twice {
		n.seen[one] = struct{}{}
		n.list = append(n.list, one)
	}
}

func (n *needs) impersonate(group, resource, subresource, name string) {
	n.add(need{verb: "impersonate", group: group, resource: resource, subresource: subresource, name: name, purpose: purposeImpersonate})
}

func (n *needs) extras(names []string) {
	for _, name := range names {
		n.impersonate(authenticationGroup, "userextras", extraPrefix+name, "")
	}
}

// jobs are impersonated as an entry of ci_access says.
func (n *needs) jobs(as *agentcfg.CiAccessAs) {
	switch as := as.GetAs().(type) {
	case *agentcfg.CiAccessAs_CiJob:
		n.impersonate("", "users", "", "")
		n.impersonate("", "groups", "", "gitlab:ci_job")
		n.extras(jobExtras)
	case *agentcfg.CiAccessAs_Impersonate:
		n.identity(as.Impersonate)
	}
}

// identity is one that is written out.
func (n *needs) identity(as *agentcfg.AccessAsImpersonate) {
	if account, ok := strings.CutPrefix(as.GetUsername(), accountPrefix); ok {
		namespace, name, _ := strings.Cut(account, ":")
		n.add(need{verb: "impersonate", resource: "serviceaccounts", namespace: namespace, name: name, purpose: purposeImpersonate})
	} else {
		n.impersonate("", "users", "", as.GetUsername())
	}
	for _, group := range as.GetGroups() {
		n.impersonate("", "groups", "", group)
	}
	if as.GetUid() != "" {
		n.impersonate(authenticationGroup, "uids", "", as.GetUid())
	}
	for _, extra := range as.GetExtra() {
		for _, value := range extra.GetVal() {
			n.impersonate(authenticationGroup, "userextras", extra.GetKey(), value)
		}
	}
}

package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// extraPrefix of what impersonation tells about a request beyond who makes it. Names of
// users, groups and extras are GitLab's: roles in clusters are bound to them.
const extraPrefix = "agent.gitlab.com/"

// userImpersonation is as whom an agent asks for a person.
func userImpersonation(user gitlabapi.ProxyUser, by kind) (*agentrpc.Impersonation, error) {
	switch as := user.AccessAs; {
	case as.Agent != nil && as.User == nil:
		return nil, nil
	case as.User == nil || as.Agent != nil || user.User.Username == "":
		return nil, refuse(http.StatusBadGateway, "RoR does not say as whom agent %d is to ask the cluster", user.Agent.ID)
	}
	groups := []string{"gitlab:user"}
	for _, project := range user.AccessAs.User.Projects {
		for _, role := range project.Roles {
			groups = append(groups, fmt.Sprintf("gitlab:project_role:%d:%s", project.ID, role))
		}
	}
	for _, group := range user.AccessAs.User.Groups {
		for _, role := range group.Roles {
			groups = append(groups, fmt.Sprintf("gitlab:group_role:%d:%s", group.ID, role))
		}
	}
	return &agentrpc.Impersonation{
		Username: "gitlab:user:" + user.User.Username,
		Groups:   groups,
		Extra: []*agentrpc.ImpersonationExtra{
			extra("id", number(user.Agent.ID)),
			extra("username", user.User.Username),
			extra("access_type", string(by)),
			extra("config_project_id", number(user.Agent.ConfigProject.ID)),
		},
	}, nil
}

// jobImpersonation is as whom an agent asks for a CI job, by the entry of ci_access that
// lets the job use it.
func jobImpersonation(job gitlabapi.AllowedAgents, agent gitlabapi.AllowedAgent) (*agentrpc.Impersonation, error) {
	// What matters here is the same in projects and groups.
	entry := &agentcfg.CiAccessProject{}
	if len(agent.Configuration) > 0 && string(agent.Configuration) != "null" {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(agent.Configuration, entry); err != nil {
			return nil, refuse(http.StatusBadGateway, "ci_access of agent %d, as RoR tells it, cannot be read: %v", agent.ID, err)
		}
	}
	if entry.GetAccessAs() == nil {
		return nil, nil // the agent itself is the default
	}
	switch as := entry.GetAccessAs().GetAs().(type) {
	case *agentcfg.CiAccessAs_Agent:
		return nil, nil
	case *agentcfg.CiAccessAs_Impersonate:
		out := &agentrpc.Impersonation{Username: as.Impersonate.GetUsername(), Uid: as.Impersonate.GetUid(), Groups: as.Impersonate.GetGroups()}
		for _, e := range as.Impersonate.GetExtra() {
			out.Extra = append(out.Extra, &agentrpc.ImpersonationExtra{Key: e.GetKey(), Values: e.GetVal()})
		}
		if out.GetUsername() == "" {
			return nil, forbid("ci_access of agent %d impersonates nobody: access_as.impersonate needs a username", agent.ID)
		}
		return out, nil
	case *agentcfg.CiAccessAs_CiJob:
		return &agentrpc.Impersonation{Username: "gitlab:ci_job:" + number(job.Job.ID), Groups: jobGroups(job), Extra: jobExtra(job, agent)}, nil
	default: // a newer one, which must not become the agent itself
		return nil, forbid("ci_access of agent %d has an access_as that this kas does not know: use agent, impersonate or ci_job", agent.ID)
	}
}

func jobGroups(job gitlabapi.AllowedAgents) []string {
	groups := []string{"gitlab:ci_job"}
	for _, group := range job.Project.Groups {
		groups = append(groups, "gitlab:group:"+number(group.ID))
		if job.Environment != nil {
			groups = append(groups, fmt.Sprintf("gitlab:group_env_tier:%d:%s", group.ID, job.Environment.Tier))
		}
	}
	groups = append(groups, "gitlab:project:"+number(job.Project.ID))
	if job.Environment != nil {
		groups = append(groups,
			fmt.Sprintf("gitlab:project_env:%d:%s", job.Project.ID, job.Environment.Slug),
			fmt.Sprintf("gitlab:project_env_tier:%d:%s", job.Project.ID, job.Environment.Tier))
	}
	return groups
}

func jobExtra(job gitlabapi.AllowedAgents, agent gitlabapi.AllowedAgent) []*agentrpc.ImpersonationExtra {
	all := []*agentrpc.ImpersonationExtra{
		extra("id", number(agent.ID)),
		extra("config_project_id", number(agent.ConfigProject.ID)),
		extra("project_id", number(job.Project.ID)),
		extra("ci_pipeline_id", number(job.Pipeline.ID)),
		extra("ci_job_id", number(job.Job.ID)),
		extra("username", job.User.Username),
	}
	if job.Environment != nil {
		all = append(all, extra("environment_slug", job.Environment.Slug), extra("environment_tier", job.Environment.Tier))
	}
	return all
}

func extra(key, value string) *agentrpc.ImpersonationExtra {
	return &agentrpc.ImpersonationExtra{Key: extraPrefix + key, Values: []string{value}}
}

func number(id int64) string { return strconv.FormatInt(id, 10) }

// Headers by which clients of the Kubernetes API impersonate.
const (
	impersonatePrefix = "Impersonate-"
	impersonateUser   = impersonatePrefix + "User"
	impersonateUID    = impersonatePrefix + "Uid"
	impersonateGroup  = impersonatePrefix + "Group"
	impersonateExtra  = impersonatePrefix + "Extra-"
)

// merge returns as whom an agent asks: as RoR says or, where that is the agent itself, as
// the client's own headers ask.
func merge(granted *agentrpc.Impersonation, h http.Header) (*agentrpc.Impersonation, error) {
	asked, err := requested(h)
	if asked == nil || err != nil {
		return granted, err
	}
	if granted != nil {
		return nil, refuse(http.StatusBadRequest, "requests through this agent are made as %q, by the agent's configuration, and cannot impersonate another one: leave out --as, --as-group and --as-uid", granted.GetUsername())
	}
	return asked, nil
}

// requested reads Impersonate-* headers; nil: there are none.
func requested(h http.Header) (*agentrpc.Impersonation, error) {
	out, found := &agentrpc.Impersonation{}, false
	for name, values := range h {
		if !strings.HasPrefix(name, impersonatePrefix) {
			continue
		}
		found = true
		switch {
		case (name == impersonateUser || name == impersonateUID) && len(values) != 1:
			return nil, refuse(http.StatusBadRequest, "the header %s comes %d times", name, len(values))
		case name == impersonateUser:
			out.Username = values[0]
		case name == impersonateUID:
			out.Uid = values[0]
		case name == impersonateGroup:
			out.Groups = values
		case strings.HasPrefix(name, impersonateExtra):
			key, err := url.PathUnescape(strings.ToLower(name[len(impersonateExtra):]))
			if err != nil || key == "" {
				return nil, refuse(http.StatusBadRequest, "the header %.100q names no extra", name)
			}
			out.Extra = append(out.Extra, &agentrpc.ImpersonationExtra{Key: key, Values: values})
		default:
			return nil, refuse(http.StatusBadRequest, "%.100q is no header of the Kubernetes API", name)
		}
	}
	switch {
	case !found:
		return nil, nil
	case out.GetUsername() == "":
		return nil, refuse(http.StatusBadRequest, "the request impersonates groups, a UID or extras without a user: set %s (--as)", impersonateUser)
	}
	return out, nil
}

package diagnose

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// agent is about what the agent says of itself and of its cluster.
func (j *judgement) agent() {
	a := j.facts.GetAgent()
	if a == nil {
		j.fail("agentk", "look at agentk's log; one that does not know the question is too old: upgrade it", "it does not answer: %s", j.facts.GetAgentError())
		return
	}
	j.ok("agentk", "runs for %s, and dials %s", words(a.GetNow().AsTime().Sub(a.GetStartedAt().AsTime())), a.GetKasAddress())
	j.apiServer(a.GetApiServer())
	if a.GetApiServer().GetError() != "" {
		return // nothing else could be asked
	}
	j.leadership(a)
	j.permissions(a.GetPermissions())
}

func (j *judgement) apiServer(api *agentrpc.ApiServer) {
	if api.GetError() != "" {
		j.fail("API server", "agentk tries again for ever: look at the cluster's API server, and at agentk's kubeconfig or service account", "%s", api.GetError())
		return
	}
	j.ok("API server", "%s answers agentk within %s", api.GetVersion(), words(api.GetRtt().AsDuration()))
	for _, failed := range api.GetFailedApis() {
		j.warn("API extension", "see why its APIService is not available; objects of its kinds cannot be synced meanwhile",
			"%s: %s", cmp.Or(failed.GetGroupVersion(), "the API server cannot tell what it serves"), failed.GetError())
	}
}

func (j *judgement) leadership(a *agentrpc.DiagnoseResponse) {
	l := a.GetLeadership()
	renewed := ""
	if l.GetRenewedAt() != nil {
		renewed = fmt.Sprintf(", renewed %s ago", words(max(0, a.GetNow().AsTime().Sub(l.GetRenewedAt().AsTime()))))
	}
	const advice = "nothing is synced meanwhile: a replica of agentk should take the Lease within half a minute; its log says why it does not"
	switch {
	case l.GetError() != "":
		j.warn("leader", "without its Lease no replica of agentk syncs: see below whether it lacks permissions", "Lease %s: %s", l.GetLease(), l.GetError())
	case l.GetHolder() == "":
		j.fail("leader", advice, "nobody holds Lease %s", l.GetLease())
	case l.GetExpired():
		j.fail("leader", advice, "%s holds Lease %s, and does not renew it any more%s", l.GetHolder(), l.GetLease(), renewed)
	case l.GetSelf():
		j.ok("leader", "the replica that answered this holds Lease %s%s", l.GetLease(), renewed)
	default:
		j.ok("leader", "another replica, %s, holds Lease %s%s", l.GetHolder(), l.GetLease(), renewed)
	}
}

func (j *judgement) permissions(p *agentrpc.Permissions) {
	for _, missing := range p.GetMissing() {
		group, where, role := missing.GetGroup(), "in all namespaces", "a ClusterRole"
		if group == "" {
			group = "the core group"
		}
		if missing.GetNamespace() != "" {
			where, role = "in namespace "+missing.GetNamespace(), "a Role in namespace "+missing.GetNamespace()
		}
		j.fail("permission", fmt.Sprintf("add to the rules of %s that is bound to %s: %s", role, cmp.Or(p.GetUser(), "agentk's user"), ruleOf(missing)),
			"agentk may not %s %s of %s %s, which it needs %s", strings.Join(missing.GetVerbs(), ", "), missing.GetResource(), group, where, missing.GetPurpose())
	}
	switch {
	case p.GetError() != "":
		j.warn("permissions", "the API server's log, or agentk's, may say more", "not all could be looked at: %s", p.GetError())
	case len(p.GetMissing()) == 0:
		j.ok("permissions", "all %d that %s needs", p.GetChecked(), cmp.Or(p.GetUser(), "agentk"))
	}
}

// ruleOf is the rule that gives a permission, as YAML in a line.
func ruleOf(p *agentrpc.MissingPermission) string {
	quoted := make([]string, 0, len(p.GetVerbs()))
	for _, verb := range p.GetVerbs() {
		quoted = append(quoted, fmt.Sprintf("%q", verb))
	}
	return fmt.Sprintf("- {apiGroups: [%q], resources: [%q], verbs: [%s]}", p.GetGroup(), p.GetResource(), strings.Join(quoted, ", "))
}

func (j *judgement) configuration() {
	c := j.facts.GetConfiguration()
	switch wrong := c.GetError(); {
	case c == nil:
		j.warn("configuration", "kas reads it when the agent connects", "kas has not read it yet")
	case wrong != nil:
		inForce := "none is in force"
		if c.GetCommitId() != "" {
			inForce = "that of commit " + short(c.GetCommitId()) + " is in force"
		}
		j.fail("configuration", "mend it in the agent's configuration project; "+inForce, "%s", fileError(wrong))
	default:
		j.ok("configuration", "commit %s is in force", short(c.GetCommitId()))
	}
}

func (j *judgement) projects() {
	for _, p := range j.facts.GetProjects() {
		name := cmp.Or(p.GetProjectPath(), p.GetProjectId())
		detail := name + ": " + stateName(p.GetState())
		if p.GetAppliedCommit() != "" {
			detail += ", commit " + short(p.GetAppliedCommit()) + " applied"
		}
		if p.GetUpdatedAt() != nil {
			detail += ", reported " + j.ago(p.GetUpdatedAt().AsTime()) + " ago"
		}
		if p.GetMessage() != "" {
			detail += ": " + p.GetMessage()
		}
		switch p.GetState() {
		case syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_FAILED:
			j.warn("project", "kasctl status shows the files and objects that are at fault", "%s", detail)
		case syncstatus.State_STATE_SUSPENDED:
			j.warn("project", "kasctl resume, or the agent's configuration, lets it go on", "%s", detail)
		case syncstatus.State_STATE_OFFLINE:
			j.warn("project", "it goes on when the agent is back", "%s", detail)
		default:
			j.ok("project", "%s", detail)
		}
	}
}

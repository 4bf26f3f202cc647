package kasctl

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// target is a manifest project in a cluster: what commands are about.
type target struct {
	agent   *agent
	project *syncstatus.ProjectStatus
}

// fullName is what a person reads.
func (t *target) fullName() string { return projectName(t.project) + " in " + t.agent.fullName() }

// arguments that name the target on a command line.
func (t *target) arguments() string { return t.agent.fullName() + " " + t.project.GetProjectId() }

// findTarget finds the agent that agentArg names and its project: the only one where
// projectArg is empty.
func (c *client) findTarget(ctx context.Context, agentArg, projectArg string) (*target, error) {
	agents, err := c.agents(ctx)
	if err != nil {
		return nil, err
	}
	a, err := find(agents, agentArg)
	if err != nil {
		return nil, err
	}
	status, err := c.status(ctx, a, "", false)
	if err != nil {
		return nil, err
	}
	projects := status.projects
	if projectArg != "" {
		projects = slices.DeleteFunc(slices.Clone(projects), func(p *syncstatus.ProjectStatus) bool { return !isNamed(p, projectArg) })
	}
	switch {
	case len(projects) == 1:
		return &target{a, projects[0]}, nil
	case len(status.projects) == 0:
		return nil, fmt.Errorf("agent %s follows no manifest project (yet): its configuration names them", a.fullName())
	case len(projects) == 0:
		return nil, fmt.Errorf("agent %s does not follow %q: it follows %s", a.fullName(), projectArg, listProjects(status.projects))
	default:
		return nil, fmt.Errorf("agent %s follows several manifest projects: name one of %s", a.fullName(), listProjects(projects))
	}
}

func isNamed(p *syncstatus.ProjectStatus, name string) bool {
	return p.GetProjectId() == name || p.GetProjectPath() == name
}

func listProjects(projects []*syncstatus.ProjectStatus) string {
	names := make([]string, 0, len(projects))
	for _, p := range projects {
		names = append(names, p.GetProjectId())
	}
	return strings.Join(names, ", ")
}

// commandBody is what RoR's commands take.
type commandBody struct {
	ManifestProject string `json:"manifest_project"`
	CommitID        string `json:"commit_id,omitempty"`
	Branch          string `json:"branch,omitempty"`
	Tag             string `json:"tag,omitempty"`
	Commit          string `json:"commit,omitempty"`
}

// command has RoR carry out a command, and returns what it answers.
func (c *client) command(ctx context.Context, t *target, verb string, body commandBody) ([]byte, error) {
	body.ManifestProject = t.project.GetProjectId()
	answer, err := c.post(ctx, body, "projects", strconv.FormatInt(t.agent.ConfigProject.ID, 10),
		"cluster_agents", strconv.FormatInt(t.agent.ID, 10), "sync_status", verb)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", strings.ReplaceAll(verb, "_", " "), t.fullName(), err)
	}
	return answer, nil
}

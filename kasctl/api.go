package kasctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// agent as RoR lists it.
type agent struct {
	ID            int64  `json:"id"`
	Name          string `json:"name"`
	ConfigProject struct {
		ID                int64  `json:"id"`
		PathWithNamespace string `json:"path_with_namespace"`
	} `json:"config_project"`
	// Connected is nil where RoR could not ask kas; KASError then says why.
	Connected   *bool        `json:"connected"`
	Connections []connection `json:"connections"`
	KASError    string       `json:"kas_error"`

	// raw is what RoR sent.
	raw json.RawMessage
}

// connection is one replica of an agent.
type connection struct {
	Version           string `json:"version"`
	PodName           string `json:"pod_name"`
	KubernetesVersion string `json:"kubernetes_version"`
}

// fullName tells agents of one name apart.
func (a *agent) fullName() string { return a.ConfigProject.PathWithNamespace + ":" + a.Name }

// state in one word.
func (a *agent) state() string {
	switch {
	case a.Connected == nil:
		return "unknown"
	case *a.Connected:
		return "connected"
	default:
		return "offline"
	}
}

// agents returns the agents that the user may see, ordered by full name.
func (c *client) agents(ctx context.Context) ([]*agent, error) {
	body, err := c.get(ctx, nil, "cluster_agents")
	if err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(body, &raws); err != nil {
		return nil, fmt.Errorf("list of agents: %w", err)
	}
	agents := make([]*agent, 0, len(raws))
	for _, raw := range raws {
		a := &agent{raw: raw}
		if err := json.Unmarshal(raw, a); err != nil {
			return nil, fmt.Errorf("list of agents: %w", err)
		}
		slices.SortFunc(a.Connections, func(x, y connection) int { return strings.Compare(x.PodName, y.PodName) })
		agents = append(agents, a)
	}
	slices.SortFunc(agents, func(x, y *agent) int {
		return cmp.Or(strings.Compare(x.fullName(), y.fullName()), cmp.Compare(x.ID, y.ID))
	})
	return agents, nil
}

var errNoAgents = errors.New("no agent is registered, or your user may see none: register one in its configuration project")

// find picks the agent that arg names: by number, name, or config-project:name.
func find(agents []*agent, arg string) (*agent, error) {
	var found []*agent
	id, _ := strconv.ParseInt(arg, 10, 64)
	for _, a := range agents {
		if a.Name == arg || a.fullName() == arg || (id != 0 && a.ID == id) {
			found = append(found, a)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("several agents go by %q: name one of %s", arg, listNames(found))
	case len(agents) == 0:
		return nil, errNoAgents
	default:
		return nil, fmt.Errorf("no agent %q: there are %s", arg, listNames(agents))
	}
}

// listNames names some agents.
func listNames(agents []*agent) string {
	const most = 10
	var names []string
	for _, a := range agents[:min(len(agents), most)] {
		names = append(names, a.fullName())
	}
	if more := len(agents) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// agentStatus is what RoR knows of an agent's sync.
type agentStatus struct {
	agent         *agent
	configuration *syncstatus.ConfigurationStatus
	// projects, ordered by what the configuration calls them.
	projects []*syncstatus.ProjectStatus
	// raw is what RoR sent, with the projects ordered and filtered likewise.
	raw map[string]json.RawMessage
}

// status asks for an agent's status. project, unless empty, picks one project by its
// id or full path. Without objects RoR leaves them out.
func (c *client) status(ctx context.Context, a *agent, project string, objects bool) (*agentStatus, error) {
	query := url.Values{}
	if !objects {
		query.Set("objects", "false")
	}
	body, err := c.get(ctx, query, "projects", strconv.FormatInt(a.ConfigProject.ID, 10),
		"cluster_agents", strconv.FormatInt(a.ID, 10), "sync_status")
	if err != nil {
		return nil, err
	}
	status, err := parseStatus(a, body, project)
	if err != nil {
		return nil, fmt.Errorf("status of agent %s: %w", a.fullName(), err)
	}
	return status, nil
}

func parseStatus(a *agent, body []byte, project string) (*agentStatus, error) {
	status := &agentStatus{agent: a, configuration: &syncstatus.ConfigurationStatus{}}
	if err := json.Unmarshal(body, &status.raw); err != nil {
		return nil, err //nolint:wrapcheck // status does
	}
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	if raw := status.raw["configuration"]; len(raw) > 0 && string(raw) != "null" {
		if err := lenient.Unmarshal(raw, status.configuration); err != nil {
			return nil, err //nolint:wrapcheck // status does
		}
	}
	var raws []json.RawMessage
	if raw := status.raw["projects"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &raws); err != nil {
			return nil, err //nolint:wrapcheck // status does
		}
	}
	type both struct {
		raw    json.RawMessage
		parsed *syncstatus.ProjectStatus
	}
	var projects []both
	for _, raw := range raws {
		p := &syncstatus.ProjectStatus{}
		if err := lenient.Unmarshal(raw, p); err != nil {
			return nil, err //nolint:wrapcheck // status does
		}
		if project == "" || p.GetProjectId() == project || p.GetProjectPath() == project {
			projects = append(projects, both{raw, p})
		}
	}
	slices.SortFunc(projects, func(x, y both) int { return strings.Compare(x.parsed.GetProjectId(), y.parsed.GetProjectId()) })
	ordered := []json.RawMessage{}
	for _, p := range projects {
		ordered = append(ordered, p.raw)
		status.projects = append(status.projects, p.parsed)
	}
	raw, err := json.Marshal(ordered)
	if err != nil {
		return nil, err //nolint:wrapcheck // status does
	}
	status.raw["projects"] = raw
	return status, nil
}

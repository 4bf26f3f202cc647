package page

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/registry"
)

// agentView is one agent in a list.
type agentView struct {
	Name                string
	URL                 string
	Project             string
	ProjectURL          string
	Connection          badge
	Version             string
	State               badge
	ConfigurationFailed bool
}

func toAgentView(a overview.Agent, kasError string) agentView {
	v := agentView{
		Name: a.Name, URL: agentPath(a.Agent), Project: a.Project.FullPath, ProjectURL: projectPath(a.Project),
		State: stateBadge(a.Worst()), ConfigurationFailed: a.ConfigurationFailed,
	}
	switch {
	case kasError != "":
		v.Connection = badge{Label: "Unknown"}
	case len(a.Connections) > 0:
		v.Connection = badge{Label: "Connected", Class: "good"}
	default:
		v.Connection = badge{Label: "Not connected", Class: "warn"}
	}
	var versions []string
	for _, c := range a.Connections {
		if s := c.GetVersion(); s != "" && !strings.Contains(strings.Join(versions, ", "), s) {
			versions = append(versions, s)
		}
	}
	v.Version = strings.Join(versions, ", ")
	return v
}

// escapePath escapes a path of RoR's own making for use in a link.
func escapePath(path string) string { return (&url.URL{Path: path}).EscapedPath() }

func projectPath(p registry.Project) string { return escapePath("/" + p.FullPath) }

func agentPath(a registry.Agent) string {
	return escapePath("/" + a.Project.FullPath + "/-/cluster_agents/" + a.Name)
}

type agentsBody struct {
	Agents   []agentView
	KasError string
}

func toAgentViews(list overview.Agents) []agentView {
	views := make([]agentView, 0, len(list.Agents))
	for _, a := range list.Agents {
		views = append(views, toAgentView(a, list.KasError))
	}
	return views
}

func (s *Server) listAgents(w http.ResponseWriter, v visit) error {
	agents, err := s.registry.Agents(v.Context(), v.user)
	if err != nil {
		return err
	}
	described, err := s.overview.Describe(v.Context(), agents)
	if err != nil {
		return err
	}
	s.render(w, http.StatusOK, "agents", v.live("Agents", agentsBody{Agents: toAgentViews(described), KasError: described.KasError}))
	return nil
}

type connectionView struct {
	Pod        string
	Version    string
	Kubernetes string
	Since      string
}

func toConnectionView(c *railsrpc.ConnectedAgent) connectionView {
	return connectionView{
		Pod: strings.TrimPrefix(c.GetPodNamespace()+"/"+c.GetPodName(), "/"), Version: c.GetVersion(),
		Kubernetes: c.GetKubernetesVersion(), Since: moment(c.GetConnectedAt()),
	}
}

type tokenView struct {
	Name      string
	Created   string
	Used      string
	RevokeURL string
}

type agentBody struct {
	Agent               agentView
	ConfigurationPath   string
	ConfigurationKnown  bool
	ConfigurationError  *fileError
	ConfigurationCommit string
	Connections         []connectionView
	Statuses            []statusView
	Tokens              []tokenView
	TokensURL           string
	// ProxyURL is that of kas's Kubernetes API proxy; empty: not known.
	ProxyURL string
	// FullName is how kasctl tells agents of one name apart.
	FullName      string
	MayAdminister bool
	KasError      string
}

// agentPage serves <project>/-/cluster_agents/<name>.
func (s *Server) agentPage(w http.ResponseWriter, v visit, p inProject, name string) error {
	if !p.access.ReadAgents() {
		return errNotFound
	}
	agent, err := s.registry.AgentByName(v.Context(), p.project.ID, name)
	if err != nil {
		return err
	}
	described, err := s.overview.Describe(v.Context(), []registry.Agent{agent})
	if err != nil {
		return err
	}
	body := agentBody{
		Agent: toAgentView(described.Agents[0], described.KasError), KasError: described.KasError,
		ConfigurationPath: ".gitlab/agents/" + agent.Name + "/config.yaml",
		TokensURL:         agentPath(agent) + "/tokens", MayAdminister: p.access.Administer(),
		ProxyURL: s.cfg.KasProxyURL, FullName: agent.Project.FullPath + ":" + agent.Name,
	}
	for _, c := range described.Agents[0].Connections {
		body.Connections = append(body.Connections, toConnectionView(c))
	}
	if err := s.addState(v, agent, &body); err != nil {
		return err
	}
	s.render(w, http.StatusOK, "agent", v.noteDone(v.live(agent.Name, body)))
	return nil
}

// addState adds what the registry knows of an agent.
func (s *Server) addState(v visit, agent registry.Agent, body *agentBody) error {
	configuration, err := s.registry.ConfigurationStatus(v.Context(), agent.ID)
	if err != nil {
		return err
	}
	body.ConfigurationKnown, body.ConfigurationCommit = configuration != nil, configuration.GetCommitId()
	if e := configuration.GetError(); e != nil {
		view := toFileError(e)
		body.ConfigurationError = &view
	}
	statuses, err := s.registry.Statuses(v.Context(), agent.ID, "", true)
	if err != nil {
		return err
	}
	for _, p := range statuses {
		link, err := s.linkToProject(v, p.GetProjectId())
		if err != nil {
			return err
		}
		view := toStatusView(p, p.GetProjectId(), link)
		view.Controls = toControls(v, agent, body.MayAdminister, p)
		body.Statuses = append(body.Statuses, view)
	}
	tokens, err := s.registry.AgentTokens(v.Context(), agent.ID)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		body.Tokens = append(body.Tokens, tokenView{
			Name: t.Name, Created: momentOf(t.CreatedAt), Used: momentOf(t.LastUsedAt),
			RevokeURL: body.TokensURL + "/" + strconv.FormatInt(t.ID, 10) + "/revoke",
		})
	}
	return nil
}

// linkToProject is empty where the visitor may not see the project.
func (s *Server) linkToProject(v visit, idOrPath string) (string, error) {
	p, err := s.registry.FindProject(v.Context(), idOrPath)
	if errors.Is(err, registry.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	access, err := s.registry.Access(v.Context(), &v.user, p)
	if err != nil || !access.See() {
		return "", err
	}
	return projectPath(p), nil
}

// createAgent registers an agent and makes its first token.
func (s *Server) createAgent(w http.ResponseWriter, v visit, p inProject) error {
	agent, err := s.registry.CreateAgent(v.Context(), p.project, v.PostFormValue("name"), v.user.ID)
	if err != nil {
		return err
	}
	return s.createToken(w, v, agent, "first token")
}

type tokenBody struct {
	Agent      string
	AgentURL   string
	Token      string
	KasAddress string
}

// createToken makes a token and shows it, this once.
func (s *Server) createToken(w http.ResponseWriter, v visit, agent registry.Agent, name string) error {
	_, token, err := s.registry.CreateAgentToken(v.Context(), agent.ID, name, "", v.user.ID)
	if err != nil {
		return err
	}
	s.render(w, http.StatusCreated, "token", v.page("Token", tokenBody{
		Agent: agent.Name, AgentURL: agentPath(agent), Token: token, KasAddress: s.cfg.KasAgentAddress,
	}))
	return nil
}

func (s *Server) revokeToken(w http.ResponseWriter, v visit, agent registry.Agent, id string) error {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return errNotFound
	}
	if err := s.registry.RevokeAgentToken(v.Context(), agent.ID, n); err != nil {
		return err
	}
	http.Redirect(w, v.Request, agentPath(agent), http.StatusSeeOther)
	return nil
}

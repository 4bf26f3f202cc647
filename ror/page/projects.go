package page

import (
	"net/http"
	"strings"

	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/registry"
)

type projectsBody struct {
	Projects []registry.Project
}

func (s *Server) listProjects(w http.ResponseWriter, v visit) error {
	projects, err := s.registry.Projects(v.Context(), &v.user)
	if err != nil {
		return err
	}
	s.render(w, http.StatusOK, "projects", v.page("Projects", projectsBody{projects}))
	return nil
}

func (s *Server) createProject(w http.ResponseWriter, v visit) error {
	p, err := s.projects.Create(v.Context(), v.user, registry.NewProject{
		Namespace: v.PostFormValue("namespace"), Path: v.PostFormValue("path"),
		Visibility: registry.Visibility(v.PostFormValue("visibility")),
	})
	if err != nil {
		return err
	}
	http.Redirect(w, v.Request, projectPath(p), http.StatusSeeOther)
	return nil
}

// inProject is a project and what the visitor may do with it.
type inProject struct {
	project registry.Project
	access  registry.Access
}

// inProject serves <full path> and what is below <full path>/-/.
func (s *Server) inProject(w http.ResponseWriter, v visit) error {
	fullPath, rest, _ := strings.Cut(strings.TrimPrefix(v.URL.Path, "/"), "/-/")
	var p inProject
	var err error
	if p.project, err = s.registry.FindProject(v.Context(), fullPath); err != nil {
		return err
	}
	if p.access, err = s.registry.Access(v.Context(), &v.user, p.project); err != nil {
		return err
	}
	if !p.access.See() {
		return errNotFound
	}
	parts := strings.Split(rest, "/")
	switch {
	case rest == "" && v.Method == http.MethodGet:
		return s.projectPage(w, v, p)
	case parts[0] != "cluster_agents":
		return errNotFound
	case v.Method == http.MethodGet && len(parts) == 2:
		return s.agentPage(w, v, p, parts[1])
	case v.Method == http.MethodGet && len(parts) > 2 && parts[2] == "cluster":
		return s.inCluster(w, v, p, parts[1], parts[3:])
	case v.Method != http.MethodPost && (v.Method != http.MethodGet || !strings.HasSuffix(rest, "/sync_status/diff")):
		return errNotFound
	case !p.access.Administer():
		return errForbidden
	}
	return s.administer(w, v, p, parts[1:])
}

// inCluster serves <agent>/cluster and what is below.
func (s *Server) inCluster(w http.ResponseWriter, v visit, p inProject, name string, rest []string) error {
	if !p.access.ReadAgents() {
		return errNotFound
	}
	agent, err := s.registry.AgentByName(v.Context(), p.project.ID, name)
	switch {
	case err != nil:
		return err
	case len(rest) == 0:
		return s.clusterPage(w, v, agent)
	case len(rest) == 1 && rest[0] == "object":
		return s.objectPage(w, v, agent)
	case len(rest) == 1 && rest[0] == "changes":
		return s.clusterChanges(w, v, agent)
	}
	return errNotFound
}

// administer serves the forms below <project>/-/cluster_agents.
func (s *Server) administer(w http.ResponseWriter, v visit, p inProject, parts []string) error {
	if len(parts) == 0 {
		return s.createAgent(w, v, p)
	}
	agent, err := s.registry.AgentByName(v.Context(), p.project.ID, parts[0])
	if err != nil {
		return err
	}
	switch {
	case len(parts) == 2 && parts[1] == "tokens":
		return s.createToken(w, v, agent, v.PostFormValue("name"))
	case len(parts) == 4 && parts[1] == "tokens" && parts[3] == "revoke":
		return s.revokeToken(w, v, agent, parts[2])
	case len(parts) == 3 && parts[1] == "sync_status" && parts[2] == "diff":
		return s.diffPage(w, v, agent)
	case len(parts) == 3 && parts[1] == "sync_status":
		return s.command(w, v, agent, control.Verb(parts[2]))
	}
	return errNotFound
}

type projectBody struct {
	Project       registry.Project
	CloneURL      string
	AgentsURL     string
	LastPush      string
	Statuses      []statusView
	Agents        []agentView
	MaySeeAgents  bool
	MayAdminister bool
	KasError      string
}

func (s *Server) projectPage(w http.ResponseWriter, v visit, p inProject) error {
	body := projectBody{
		Project: p.project, CloneURL: s.cfg.ExternalURL + projectPath(p.project) + ".git",
		AgentsURL:    projectPath(p.project) + "/-/cluster_agents",
		MaySeeAgents: p.access.ReadAgents(), MayAdminister: p.access.Administer(),
	}
	lastPush, err := s.registry.LastPush(v.Context(), p.project.ID)
	if err != nil {
		return err
	}
	body.LastPush = momentOf(lastPush)
	if body.MaySeeAgents {
		if err := s.addAgents(v, p.project, &body); err != nil {
			return err
		}
	}
	s.render(w, http.StatusOK, "project", v.noteDone(v.live(p.project.FullPath, body)))
	return nil
}

// addAgents adds the agents of a project, and how far it is in all clusters.
func (s *Server) addAgents(v visit, p registry.Project, body *projectBody) error {
	agents, err := s.registry.AgentsOf(v.Context(), p.ID)
	if err != nil {
		return err
	}
	described, err := s.overview.Describe(v.Context(), agents)
	if err != nil {
		return err
	}
	body.Agents, body.KasError = toAgentViews(described), described.KasError
	statuses, err := s.registry.StatusesOf(v.Context(), p, true)
	if err != nil {
		return err
	}
	for _, status := range statuses {
		agent, err := s.registry.Agent(v.Context(), status.GetAgentId())
		if err != nil {
			return err
		}
		// Whoever names a project in a configuration must not thereby get a word on its page.
		mayRead, err := s.registry.AgentMayRead(v.Context(), agent, p)
		if err != nil {
			return err
		}
		if !mayRead {
			continue
		}
		link, mayAdminister, err := s.linkToAgent(v, agent)
		if err != nil {
			return err
		}
		view := toStatusView(status, agent.Name, link)
		view.Controls = toControls(v, agent, mayAdminister, status)
		body.Statuses = append(body.Statuses, view)
	}
	return nil
}

// linkToAgent is empty where the visitor may not see the agent: whoever develops a
// manifest project sees how far it is in a cluster, but not the rest of that cluster,
// and commands it only with the rights of the agent's own project.
func (s *Server) linkToAgent(v visit, agent registry.Agent) (link string, mayAdminister bool, err error) {
	access, err := s.registry.Access(v.Context(), &v.user, agent.Project)
	if err != nil || !access.ReadAgents() {
		return "", false, err
	}
	return agentPath(agent), access.Administer(), nil
}

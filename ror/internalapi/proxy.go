package internalapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

type proxyRequest struct {
	AgentID    int64  `json:"agent_id"`
	AccessType string `json:"access_type"`
	AccessKey  string `json:"access_key"`
	CSRFToken  string `json:"csrf_token"`
}

type proxyAnswer struct {
	Agent struct {
		ID            int64    `json:"id"`
		ConfigProject numbered `json:"config_project"`
	} `json:"agent"`
	User struct {
		ID       int64  `json:"id"`
		Username string `json:"username"`
	} `json:"user"`
	AccessAs accessAs `json:"access_as"`
}

type numbered struct {
	ID int64 `json:"id"`
}

// accessAs has one of its fields.
type accessAs struct {
	Agent *struct{}   `json:"agent,omitempty"`
	User  *userAccess `json:"user,omitempty"`
}

type userAccess struct {
	Projects []granted `json:"projects"`
	Groups   []granted `json:"groups"`
}

type granted struct {
	ID    int64    `json:"id"`
	Roles []string `json:"roles"`
}

// authorizeProxyUser tells whether a person may reach a cluster through an agent,
// and as whom, by user_access of the agent's configuration.
func (s *Server) authorizeProxyUser(w http.ResponseWriter, r *http.Request) error {
	var req proxyRequest
	if err := jsonhttp.Read(w, r, maxBody, &req); err != nil {
		return err
	}
	user, err := s.proxyUser(r, req)
	if err != nil {
		return err
	}
	agent, err := s.registry.Agent(r.Context(), req.AgentID)
	if errors.Is(err, registry.ErrNotFound) {
		return jsonhttp.NotFound("Agent")
	}
	if err != nil {
		return err
	}
	access, err := s.userAccess(r, agent, user)
	if err != nil {
		return err
	}
	var answer proxyAnswer
	answer.Agent.ID, answer.Agent.ConfigProject.ID = agent.ID, agent.Project.ID
	answer.User.ID, answer.User.Username = user.ID, user.Username
	answer.AccessAs = access
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

func (s *Server) proxyUser(r *http.Request, req proxyRequest) (registry.User, error) {
	switch req.AccessType {
	case "personal_access_token":
		user, token, err := s.registry.UserByToken(r.Context(), req.AccessKey)
		if err == nil && !token.Allows(registry.ScopeK8sProxy) {
			return registry.User{}, jsonhttp.ErrForbidden
		}
		return user, err
	case "session_cookie":
		return s.registry.UserByKasKey(r.Context(), req.AccessKey, req.CSRFToken)
	}
	return registry.User{}, jsonhttp.BadRequest("access_type does not have a valid value")
}

// userAccess is GitLab's rule: user_access names projects and groups; who is at
// least a developer in one of them may pass.
func (s *Server) userAccess(r *http.Request, agent registry.Agent, user registry.User) (accessAs, error) {
	stored, err := s.registry.AgentConfiguration(r.Context(), agent.ID)
	if err != nil {
		return accessAs{}, err
	}
	var cfg agentcfg.ConfigurationFile
	if len(stored) > 0 {
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(stored, &cfg); err != nil {
			return accessAs{}, fmt.Errorf("configuration of agent %d: %w", agent.ID, err)
		}
	}
	grants := userAccess{Groups: []granted{}}
	if grants.Projects, err = s.grantedProjects(r, agent, user, cfg.GetUserAccess().GetProjects()); err != nil {
		return accessAs{}, err
	}
	if grants.Groups, err = s.grantedGroups(r, agent, user, cfg.GetUserAccess().GetGroups()); err != nil {
		return accessAs{}, err
	}
	as := cfg.GetUserAccess().GetAccessAs()
	switch {
	case len(grants.Projects) == 0 && len(grants.Groups) == 0:
		return accessAs{}, jsonhttp.ErrForbidden
	case as.GetAgent() != nil:
		return accessAs{Agent: &struct{}{}}, nil
	case as.GetUser() != nil:
		return accessAs{User: &grants}, nil
	}
	return accessAs{}, jsonhttp.ErrForbidden
}

func (s *Server) grantedProjects(r *http.Request, agent registry.Agent, user registry.User, named []*agentcfg.UserAccessProject) ([]granted, error) {
	list := []granted{}
	for _, n := range named {
		p, err := s.registry.FindProject(r.Context(), n.GetId())
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !strings.EqualFold(p.TopNamespace(), agent.Project.TopNamespace()) {
			continue // GitLab: only what shares the configuration project's root
		}
		access, err := s.registry.Access(r.Context(), &user, p)
		if err != nil {
			return nil, err
		}
		if access.Level >= registry.Developer {
			list = append(list, granted{ID: p.ID, Roles: roles(access.Level)})
		}
	}
	return list, nil
}

func (s *Server) grantedGroups(r *http.Request, agent registry.Agent, user registry.User, named []*agentcfg.UserAccessGroup) ([]granted, error) {
	list := []granted{}
	for _, n := range named {
		top, _, _ := strings.Cut(n.GetId(), "/")
		if !strings.EqualFold(top, agent.Project.TopNamespace()) {
			continue
		}
		id, level, err := s.registry.NamespaceAccess(r.Context(), user, n.GetId())
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if level >= registry.Developer {
			list = append(list, granted{ID: id, Roles: roles(level)})
		}
	}
	return list, nil
}

// roles lists a level's role and those below it, from reporter up, as GitLab does.
func roles(level registry.AccessLevel) []string {
	type role struct {
		level registry.AccessLevel
		name  string
	}
	all := []role{{registry.Reporter, "reporter"}, {registry.Developer, "developer"}, {registry.Maintainer, "maintainer"}, {registry.Owner, "owner"}}
	end, found := slices.BinarySearchFunc(all, level, func(r role, l registry.AccessLevel) int { return cmp.Compare(r.level, l) })
	if found {
		end++
	}
	names := make([]string, 0, end)
	for _, r := range all[:end] {
		names = append(names, r.name)
	}
	return names
}

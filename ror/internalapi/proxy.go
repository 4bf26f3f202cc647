package internalapi

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// authorizeProxyUser tells whether a person may reach a cluster through an agent,
// and as whom, by user_access of the agent's configuration.
func (s *Server) authorizeProxyUser(w http.ResponseWriter, r *http.Request) error {
	var req gitlabapi.ProxyUserRequest
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
	jsonhttp.Write(w, http.StatusOK, gitlabapi.ProxyUser{
		Agent:    gitlabapi.ConfiguredAgent{ID: agent.ID, ConfigProject: gitlabapi.Numbered{ID: agent.Project.ID}},
		User:     gitlabapi.User{ID: user.ID, Username: user.Username},
		AccessAs: access,
	})
	return nil
}

func (s *Server) proxyUser(r *http.Request, req gitlabapi.ProxyUserRequest) (registry.User, error) {
	switch req.AccessType {
	case gitlabapi.AccessPersonalToken:
		user, token, err := s.registry.UserByToken(r.Context(), req.AccessKey)
		if err == nil && !token.Allows(registry.ScopeK8sProxy) {
			return registry.User{}, jsonhttp.ErrForbidden
		}
		return user, err
	case gitlabapi.AccessSessionCookie:
		return s.registry.UserByKasKey(r.Context(), req.AccessKey, req.CSRFToken)
	}
	return registry.User{}, jsonhttp.BadRequest("access_type does not have a valid value")
}

// userAccess is GitLab's rule: user_access names projects and groups; who is at
// least a developer in one of them may pass.
func (s *Server) userAccess(r *http.Request, agent registry.Agent, user registry.User) (gitlabapi.ProxyAccessAs, error) {
	stored, err := s.registry.AgentConfiguration(r.Context(), agent.ID)
	if err != nil {
		return gitlabapi.ProxyAccessAs{}, err
	}
	cfg, err := parseConfiguration(agent.ID, stored)
	if err != nil {
		return gitlabapi.ProxyAccessAs{}, err
	}
	grants := gitlabapi.UserGrants{}
	if grants.Projects, err = s.grantedProjects(r, agent, user, cfg.GetUserAccess().GetProjects()); err != nil {
		return gitlabapi.ProxyAccessAs{}, err
	}
	if grants.Groups, err = s.grantedGroups(r, agent, user, cfg.GetUserAccess().GetGroups()); err != nil {
		return gitlabapi.ProxyAccessAs{}, err
	}
	as := cfg.GetUserAccess().GetAccessAs()
	switch {
	case len(grants.Projects) == 0 && len(grants.Groups) == 0:
		return gitlabapi.ProxyAccessAs{}, jsonhttp.ErrForbidden
	case as.GetAgent() != nil:
		return gitlabapi.ProxyAccessAs{Agent: &struct{}{}}, nil
	case as.GetUser() != nil:
		return gitlabapi.ProxyAccessAs{User: &grants}, nil
	}
	return gitlabapi.ProxyAccessAs{}, jsonhttp.ErrForbidden
}

func (s *Server) grantedProjects(r *http.Request, agent registry.Agent, user registry.User, named []*agentcfg.UserAccessProject) ([]gitlabapi.Grant, error) {
	list := []gitlabapi.Grant{}
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
			list = append(list, gitlabapi.Grant{ID: p.ID, Roles: roles(access.Level)})
		}
	}
	return list, nil
}

func (s *Server) grantedGroups(r *http.Request, agent registry.Agent, user registry.User, named []*agentcfg.UserAccessGroup) ([]gitlabapi.Grant, error) {
	list := []gitlabapi.Grant{}
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
			list = append(list, gitlabapi.Grant{ID: id, Roles: roles(level)})
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

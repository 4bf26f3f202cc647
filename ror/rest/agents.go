package rest

import (
	"fmt"
	"net/http"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/registry"
)

type agentJSON struct {
	ID              int64             `json:"id"`
	Name            string            `json:"name"`
	ConfigProject   configProjectJSON `json:"config_project"`
	CreatedAt       string            `json:"created_at"`
	CreatedByUserID int64             `json:"created_by_user_id"`

	// Connected is null where kas does not say.
	Connected   *bool            `json:"connected"`
	Connections []connectionJSON `json:"connections"`
	KasError    string           `json:"kas_error,omitempty"`
}

type connectionJSON struct {
	Version           string  `json:"version"`
	PodNamespace      string  `json:"pod_namespace"`
	PodName           string  `json:"pod_name"`
	KubernetesVersion string  `json:"kubernetes_version"`
	ConnectedAt       *string `json:"connected_at"`
}

func toAgent(a overview.Agent, kasError string) agentJSON {
	j := agentJSON{
		ID: a.ID, Name: a.Name, ConfigProject: toConfigProject(a.Project), CreatedAt: timestamp(a.CreatedAt), CreatedByUserID: a.CreatedBy,
		Connections: make([]connectionJSON, 0, len(a.Connections)), KasError: kasError,
	}
	for _, c := range a.Connections {
		j.Connections = append(j.Connections, toConnection(c))
	}
	if kasError == "" {
		connected := len(a.Connections) > 0
		j.Connected = &connected
	}
	return j
}

func toConnection(c *railsrpc.ConnectedAgent) connectionJSON {
	j := connectionJSON{Version: c.GetVersion(), PodNamespace: c.GetPodNamespace(), PodName: c.GetPodName(), KubernetesVersion: c.GetKubernetesVersion()}
	if c.GetConnectedAt() != nil {
		at := timestamp(c.GetConnectedAt().AsTime())
		j.ConnectedAt = &at
	}
	return j
}

func (s *Server) writeAgents(w http.ResponseWriter, c call, agents []registry.Agent) error {
	described, err := s.overview.Describe(c.Context(), agents)
	if err != nil {
		return err
	}
	writeList(w, described.Agents, func(a overview.Agent) agentJSON { return toAgent(a, described.KasError) })
	return nil
}

// describe returns one agent as the API shows it.
func (s *Server) describe(c call, a registry.Agent) (agentJSON, error) {
	described, err := s.overview.Describe(c.Context(), []registry.Agent{a})
	if err != nil {
		return agentJSON{}, err
	}
	return toAgent(described.Agents[0], described.KasError), nil
}

func (s *Server) listAllAgents(w http.ResponseWriter, c call) error {
	agents, err := s.registry.Agents(c.Context(), c.user)
	if err != nil {
		return err
	}
	return s.writeAgents(w, c, agents)
}

func (s *Server) listAgents(w http.ResponseWriter, c call, p registry.Project) error {
	agents, err := s.registry.AgentsOf(c.Context(), p.ID)
	if err != nil {
		return err
	}
	return s.writeAgents(w, c, agents)
}

func (s *Server) createAgent(w http.ResponseWriter, c call, p registry.Project) error {
	var body struct {
		Name string `json:"name"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	a, err := s.registry.CreateAgent(c.Context(), p, body.Name, c.user.ID)
	if err != nil {
		return err
	}
	// An agent that has no token yet cannot be connected: no need to ask kas.
	jsonhttp.Write(w, http.StatusCreated, toAgent(overview.Agent{Agent: a}, ""))
	return nil
}

func (s *Server) getAgent(w http.ResponseWriter, c call, a registry.Agent) error {
	j, err := s.describe(c, a)
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, j)
	return nil
}

func (s *Server) deleteAgent(w http.ResponseWriter, c call, a registry.Agent) error {
	if err := s.registry.DeleteAgent(c.Context(), a.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type tokenJSON struct {
	ID              int64   `json:"id"`
	Name            string  `json:"name"`
	Description     string  `json:"description"`
	AgentID         int64   `json:"agent_id"`
	Status          string  `json:"status"`
	CreatedAt       string  `json:"created_at"`
	CreatedByUserID int64   `json:"created_by_user_id"`
	LastUsedAt      *string `json:"last_used_at"`
	// Token is there once: in the answer that creates it.
	Token string `json:"token,omitempty"`
}

func toToken(t registry.AgentToken) tokenJSON {
	status := "active"
	if t.Revoked {
		status = "revoked"
	}
	return tokenJSON{
		ID: t.ID, Name: t.Name, Description: t.Description, AgentID: t.AgentID, Status: status,
		CreatedAt: timestamp(t.CreatedAt), CreatedByUserID: t.CreatedBy, LastUsedAt: optionalTimestamp(t.LastUsedAt),
	}
}

func (s *Server) listTokens(w http.ResponseWriter, c call, a registry.Agent) error {
	tokens, err := s.registry.AgentTokens(c.Context(), a.ID)
	if err != nil {
		return err
	}
	writeList(w, tokens, toToken)
	return nil
}

func (s *Server) createToken(w http.ResponseWriter, c call, a registry.Agent) error {
	var body struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	if err := jsonhttp.Read(w, c.Request, maxBody, &body); err != nil {
		return err
	}
	t, token, err := s.registry.CreateAgentToken(c.Context(), a.ID, body.Name, body.Description, c.user.ID)
	if err != nil {
		return err
	}
	j := toToken(t)
	j.Token = token
	jsonhttp.Write(w, http.StatusCreated, j)
	return nil
}

func (s *Server) getToken(w http.ResponseWriter, c call, a registry.Agent) error {
	id, err := c.number("token")
	if err != nil {
		return err
	}
	t, err := s.registry.AgentToken(c.Context(), a.ID, id)
	if err != nil {
		return fmt.Errorf("show token: %w", err)
	}
	jsonhttp.Write(w, http.StatusOK, toToken(t))
	return nil
}

func (s *Server) revokeToken(w http.ResponseWriter, c call, a registry.Agent) error {
	id, err := c.number("token")
	if err != nil {
		return err
	}
	if err := s.registry.RevokeAgentToken(c.Context(), a.ID, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

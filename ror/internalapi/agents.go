package internalapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

func (s *Server) agentInfo(w http.ResponseWriter, _ *http.Request, a registry.Agent) error {
	jsonhttp.Write(w, http.StatusOK, gitlabapi.AgentInfo{
		ProjectID:        a.Project.ID,
		AgentID:          a.ID,
		AgentName:        a.Name,
		GitalyInfo:       s.repositories.Info(),
		GitalyRepository: s.repositories.Repository(a.Project),
		DefaultBranch:    a.Project.DefaultBranch,
	})
	return nil
}

func (s *Server) projectInfo(w http.ResponseWriter, r *http.Request, a registry.Agent) error {
	id := r.URL.Query().Get("id")
	if id == "" {
		return jsonhttp.BadRequest("id is missing")
	}
	p, err := s.registry.FindProject(r.Context(), id)
	if errors.Is(err, registry.ErrNotFound) {
		return jsonhttp.NotFound("Project")
	}
	if err != nil {
		return err
	}
	allowed, err := s.registry.AgentMayRead(r.Context(), a, p)
	if err != nil {
		return err
	}
	if !allowed {
		return jsonhttp.NotFound("Project")
	}
	jsonhttp.Write(w, http.StatusOK, gitlabapi.ProjectInfo{
		ProjectID:        p.ID,
		GitalyInfo:       s.repositories.Info(),
		GitalyRepository: s.repositories.Repository(p),
		DefaultBranch:    p.DefaultBranch,
	})
	return nil
}

func (s *Server) agentConfiguration(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		AgentID     int64           `json:"agent_id"`
		AgentConfig json.RawMessage `json:"agent_config"`
	}
	if err := jsonhttp.Read(w, r, maxBody, &body); err != nil {
		return err
	}
	if body.AgentConfig == nil {
		return jsonhttp.BadRequest("agent_config is missing")
	}
	// A kas of another version may know keys that this server does not: kept all the same.
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body.AgentConfig, &agentcfg.ConfigurationFile{})
	if err != nil {
		return jsonhttp.BadRequest("agent_config is invalid: %v", err)
	}
	if err := s.registry.SetAgentConfiguration(r.Context(), body.AgentID, body.AgentConfig); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxCounters is how many counters one report may have.
const maxCounters = 1000

func (s *Server) usageMetrics(w http.ResponseWriter, r *http.Request) error {
	var body gitlabapi.UsageMetrics
	if err := jsonhttp.Read(w, r, maxBody, &body); err != nil {
		return err
	}
	if len(body.Counters) > maxCounters {
		return jsonhttp.BadRequest("counters has more than %d entries", maxCounters)
	}
	for name, n := range body.Counters {
		if n < 0 || name == "" || len(name) > 255 {
			return jsonhttp.BadRequest("counters is invalid: %q", name)
		}
	}
	if err := s.registry.AddUsage(r.Context(), body.Counters); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// agentEvents takes GitLab's usage events, of which there is no use here.
func (s *Server) agentEvents(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Events map[string][]any `json:"events"`
	}
	if err := jsonhttp.Read(w, r, maxBody, &body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) syncStatus(w http.ResponseWriter, r *http.Request) error {
	body, err := jsonhttp.ReadAll(w, r, maxStatusBody)
	if err != nil {
		return err
	}
	var update syncstatus.Update
	// A kas of another version may know fields that this server does not.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &update); err != nil {
		return jsonhttp.BadRequest("400 Bad request - not a sync status: %v", err)
	}
	if err := s.registry.ApplyUpdate(r.Context(), &update); err != nil {
		return err
	}
	if status := update.GetStatus(); status != nil {
		s.cfg.OnStatus(status)
	}
	s.cfg.Log.Debug("sync status stored", logging.AgentID(update.GetAgentId()),
		logging.Project(update.GetStatus().GetProjectId()), zap.Stringer("state", update.GetStatus().GetState()))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

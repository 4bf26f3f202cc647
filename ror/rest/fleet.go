package rest

import (
	"net/http"

	"github.com/kas-agentk/kas/ror/clusters"
	"github.com/kas-agentk/kas/ror/jsonhttp"
)

// fleetJSON answers GET /cluster_state/<resource>.
type fleetJSON struct {
	Agents []fleetAgentJSON `json:"agents"`
}

// fleetAgentJSON is the answer of one agent: a list as it answers for one, or an error.
type fleetAgentJSON struct {
	ID            int64             `json:"id"`
	Name          string            `json:"name"`
	ConfigProject configProjectJSON `json:"config_project"`
	Error         *errorJSON        `json:"error"`
	*listJSON
}

// listFleet lists what is in the clusters of all agents that the user may see. Limit is
// each one's. That agents do not answer is no error: the answer names them.
func (s *Server) listFleet(w http.ResponseWriter, c call) error {
	req, err := listRequest(c)
	if err != nil {
		return err
	}
	if watch, err := isWatch(c.URL.Query()); watch || err != nil {
		return jsonhttp.BadRequest("watch is invalid: several agents cannot be watched at once")
	}
	if req.GetContinue() != "" {
		return jsonhttp.BadRequest("continue is invalid: go on agent by agent")
	}
	agents, err := s.registry.Agents(c.Context(), c.user)
	if err != nil {
		return err
	}
	answers, err := s.clusters.Fleet(c.Context(), agents, req)
	if err != nil {
		return err
	}
	fleet := fleetJSON{Agents: make([]fleetAgentJSON, 0, len(answers))}
	for i := range answers {
		answer, err := toFleetAgent(&answers[i])
		if err != nil {
			return err
		}
		fleet.Agents = append(fleet.Agents, answer)
	}
	jsonhttp.Write(w, http.StatusOK, fleet)
	return nil
}

func toFleetAgent(a *clusters.Answer) (fleetAgentJSON, error) {
	answer := fleetAgentJSON{ID: a.Agent.ID, Name: a.Agent.Name, ConfigProject: toConfigProject(a.Agent.Project)}
	if a.Err != nil {
		said := toErrorJSON(a.Err)
		answer.Error = &said
		return answer, nil //nolint:nilerr // it is a part of the answer
	}
	list, err := toList(a.List)
	answer.listJSON = &list
	return answer, err
}

package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// syncStatusJSON answers GET sync_status. Statuses are the protobuf JSON, with
// original field names, of the messages of api/syncstatus.
type syncStatusJSON struct {
	Agent agentJSON `json:"agent"`
	// Configuration is null before kas said anything of it.
	Configuration json.RawMessage   `json:"configuration"`
	Projects      []json.RawMessage `json:"projects"`
}

// syncStatus tells how far an agent's projects are. Query: project=<as the agent's
// configuration names it, or full path> for that one only; objects=false leaves the
// objects out.
func (s *Server) syncStatus(w http.ResponseWriter, c call, a registry.Agent) error {
	query := c.URL.Query()
	withObjects := true
	if v := query.Get("objects"); v != "" {
		var err error
		if withObjects, err = strconv.ParseBool(v); err != nil {
			return jsonhttp.BadRequest("objects is invalid: want true or false")
		}
	}
	agent, err := s.describe(c, a)
	if err != nil {
		return err
	}
	answer := syncStatusJSON{Agent: agent, Configuration: json.RawMessage("null")}
	configuration, err := s.registry.ConfigurationStatus(c.Context(), a.ID)
	if err != nil {
		return err
	}
	if configuration != nil {
		if answer.Configuration, err = toJSON(configuration); err != nil {
			return err
		}
	}
	statuses, err := s.registry.Statuses(c.Context(), a.ID, query.Get("project"), withObjects)
	if err != nil {
		return err
	}
	if answer.Projects, err = toJSONs(statuses); err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

func toJSON(m proto.Message) (json.RawMessage, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return b, nil
}

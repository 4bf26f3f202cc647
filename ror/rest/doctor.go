package rest

import (
	"net/http"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// doctor tells why an agent does not do what it should: the protobuf JSON, with original
// field names, of a railsrpc.DiagnoseResponse.
func (s *Server) doctor(w http.ResponseWriter, c call, a registry.Agent) error {
	known, err := s.registry.AgentTokens(c.Context(), a.ID)
	if err != nil {
		return err
	}
	found, err := s.clusters.Diagnose(c.Context(), a, toTokens(known))
	if err != nil {
		return err
	}
	answer, err := toJSON(found)
	if err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

func toTokens(known []registry.AgentToken) *railsrpc.AgentTokens {
	tokens := &railsrpc.AgentTokens{Number: uint32(len(known))}
	for _, t := range known {
		if !t.LastUsedAt.IsZero() && (tokens.GetLastUsedAt() == nil || t.LastUsedAt.After(tokens.GetLastUsedAt().AsTime())) {
			tokens.LastUsedAt = timestamppb.New(t.LastUsedAt)
		}
	}
	return tokens
}

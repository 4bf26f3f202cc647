package rest

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/ror/control"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// commandBody is what commands take, as JSON or as a form. All may be left out but
// commit_id of approve_prune.
type commandBody struct {
	// ManifestProject as the agent's configuration names it, or its full path.
	ManifestProject string `json:"manifest_project"`
	CommitID        string `json:"commit_id"`
	control.Ref
}

func readCommand(w http.ResponseWriter, r *http.Request) (commandBody, error) {
	var body commandBody
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind == "application/x-www-form-urlencoded" {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := r.ParseForm(); err != nil {
			return body, jsonhttp.BadRequest("400 Bad request - the form could not be read: %v", err)
		}
		form := r.PostForm
		body.ManifestProject, body.CommitID = form.Get("manifest_project"), form.Get("commit_id")
		body.Branch, body.Tag, body.Commit = form.Get("branch"), form.Get("tag"), form.Get("commit")
		return body, nil
	}
	if r.ContentLength == 0 {
		return body, nil
	}
	err := jsonhttp.Read(w, r, maxBody, &body)
	return body, err
}

// command answers POST sync_status/<verb>.
func (s *Server) command(verb control.Verb) func(http.ResponseWriter, call, registry.Agent) error {
	return func(w http.ResponseWriter, c call, a registry.Agent) error {
		body, err := readCommand(w, c.Request)
		if err != nil {
			return err
		}
		err = s.control.Do(c.Context(), control.Command{
			Target: control.Target{Agent: a, Project: body.ManifestProject, By: c.user}, Verb: verb, Commit: body.CommitID,
		})
		if err != nil {
			return err
		}
		if verb == control.Sync { // it has begun; the status tells how it goes
			jsonhttp.Write(w, http.StatusAccepted, map[string]string{"message": "202 Accepted"})
			return nil
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// diffJSON answers POST sync_status/diff. Errors and differences are the protobuf
// JSON, with original field names, of the messages of api/syncstatus.
type diffJSON struct {
	CommitID    string            `json:"commit_id"`
	Errors      []json.RawMessage `json:"errors"`
	Differences []json.RawMessage `json:"differences"`
}

func (s *Server) diff(w http.ResponseWriter, c call, a registry.Agent) error {
	body, err := readCommand(w, c.Request)
	if err != nil {
		return err
	}
	res, err := s.control.Diff(c.Context(), control.Target{Agent: a, Project: body.ManifestProject, By: c.user}, body.Ref)
	if err != nil {
		return err
	}
	answer := diffJSON{CommitID: res.GetCommitId()}
	if answer.Errors, err = toJSONs(res.GetErrors()); err != nil {
		return err
	}
	if answer.Differences, err = toJSONs(res.GetDifferences()); err != nil {
		return err
	}
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

// toJSONs never returns nil without an error: an empty list is a list.
func toJSONs[M proto.Message](messages []M) ([]json.RawMessage, error) {
	list := make([]json.RawMessage, 0, len(messages))
	for _, m := range messages {
		j, err := toJSON(m)
		if err != nil {
			return nil, err
		}
		list = append(list, j)
	}
	return list, nil
}

// toAgentAnswer is what came of a command or question to an agent, in GitLab's shape.
func toAgentAnswer(code int, message string) *jsonhttp.Error {
	if code == http.StatusBadRequest {
		return &jsonhttp.Error{Status: code, Message: message}
	}
	return &jsonhttp.Error{Status: code, Message: fmt.Sprintf("%d %s - %s", code, http.StatusText(code), message)}
}

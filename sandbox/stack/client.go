package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// clientTimeout bounds one request, so that a part that hangs is an error.
const clientTimeout = time.Minute

// Client speaks the part of ror's public REST that the demo and the tests need.
type Client struct {
	// URL of ror, and a personal access token.
	URL, Token string
}

// StatusError is an answer that is not 2xx.
type StatusError struct {
	Code    int
	Message string
}

// Error implements error.
func (e *StatusError) Error() string { return fmt.Sprintf("ror answers %d: %s", e.Code, e.Message) }

// IsConflict tells whether err says that the thing exists already.
func IsConflict(err error) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code == http.StatusConflict
}

// Project of ror.
type Project struct {
	ID   int64  `json:"id"`
	Path string `json:"path_with_namespace"`
	// HTTPURL is the clone URL, without credentials.
	HTTPURL string `json:"http_url_to_repo"`
}

// CreateProject makes a project with an empty repository. visibility is "private",
// "internal" or "public".
func (c *Client) CreateProject(ctx context.Context, namespace, path, visibility string) (Project, error) {
	var p Project
	err := c.Do(ctx, http.MethodPost, "/projects",
		map[string]any{"path": path, "namespace_path": namespace, "visibility": visibility}, &p)
	return p, err
}

// Project finds a project by its full path or number.
func (c *Client) Project(ctx context.Context, id string) (Project, error) {
	var p Project
	err := c.Do(ctx, http.MethodGet, "/projects/"+url.PathEscape(id), nil, &p)
	return p, err
}

// Agent of a project.
type Agent struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	// Connected is nil where ror cannot tell, because it cannot reach kas.
	Connected *bool `json:"connected"`
}

// CreateAgent registers an agent.
func (c *Client) CreateAgent(ctx context.Context, project, name string) (Agent, error) {
	var a Agent
	err := c.Do(ctx, http.MethodPost, agents(project), map[string]any{"name": name}, &a)
	return a, err
}

// Agents lists a project's agents.
func (c *Client) Agents(ctx context.Context, project string) ([]Agent, error) {
	var all []Agent
	err := c.Do(ctx, http.MethodGet, agents(project), nil, &all)
	return all, err
}

// AgentToken is a token; Token is shown at its creation only.
type AgentToken struct {
	ID    int64  `json:"id"`
	Token string `json:"token"`
}

// CreateToken makes a token for an agent.
func (c *Client) CreateToken(ctx context.Context, project string, agent int64, name string) (AgentToken, error) {
	var t AgentToken
	err := c.Do(ctx, http.MethodPost, fmt.Sprintf("%s/%d/tokens", agents(project), agent), map[string]any{"name": name}, &t)
	return t, err
}

// RevokeToken ends a token.
func (c *Client) RevokeToken(ctx context.Context, project string, agent, token int64) error {
	return c.Do(ctx, http.MethodDelete, fmt.Sprintf("%s/%d/tokens/%d", agents(project), agent, token), nil, nil)
}

// AgentStatus is how an agent's configuration and projects fare.
type AgentStatus struct {
	Agent         Agent
	Configuration *syncstatus.ConfigurationStatus
	Projects      []*syncstatus.ProjectStatus
}

// SyncStatus asks for it.
func (c *Client) SyncStatus(ctx context.Context, project string, agent int64) (*AgentStatus, error) {
	var raw struct {
		Agent         Agent             `json:"agent"`
		Configuration json.RawMessage   `json:"configuration"`
		Projects      []json.RawMessage `json:"projects"`
	}
	if err := c.Do(ctx, http.MethodGet, fmt.Sprintf("%s/%d/sync_status", agents(project), agent), nil, &raw); err != nil {
		return nil, err
	}
	s := &AgentStatus{Agent: raw.Agent, Configuration: &syncstatus.ConfigurationStatus{}}
	if len(raw.Configuration) > 0 && !bytes.Equal(raw.Configuration, []byte("null")) {
		if err := protojson.Unmarshal(raw.Configuration, s.Configuration); err != nil {
			return nil, fmt.Errorf("decode configuration status: %w", err)
		}
	}
	for _, p := range raw.Projects {
		status := &syncstatus.ProjectStatus{}
		if err := protojson.Unmarshal(p, status); err != nil {
			return nil, fmt.Errorf("decode project status: %w", err)
		}
		s.Projects = append(s.Projects, status)
	}
	return s, nil
}

func agents(project string) string {
	return "/projects/" + url.PathEscape(project) + "/cluster_agents"
}

// Do sends a request to the path below /api/v4, with body as JSON unless it is nil,
// and decodes the answer into out unless that is nil. An answer that is not 2xx is
// a *StatusError.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+"/api/v4"+path, bytes.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("PRIVATE-TOKEN", c.Token)
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask ror: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read ror's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var m struct {
			Message json.RawMessage `json:"message"`
		}
		if json.Unmarshal(answer, &m) != nil || m.Message == nil {
			m.Message = answer
		}
		return &StatusError{Code: resp.StatusCode, Message: string(m.Message)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode ror's answer to %s %s: %w", method, path, err)
	}
	return nil
}

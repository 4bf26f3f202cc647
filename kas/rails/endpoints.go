package rails

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
)

// AgentInfo asks who bears an agent token. ErrUnauthorized: nobody; ErrForbidden: the
// agent may not use kas.
func (c *Client) AgentInfo(ctx context.Context, token string) (gitlabapi.AgentInfo, error) {
	var info gitlabapi.AgentInfo
	err := c.do(ctx, call{method: http.MethodGet, path: gitlabapi.PathAgentInfo, token: token, into: &info})
	return info, err
}

// ProjectInfo asks where a project lives: id is its full path or its number.
// ErrNotFound: there is none, or the agent may not read it.
func (c *Client) ProjectInfo(ctx context.Context, token, id string) (gitlabapi.ProjectInfo, error) {
	var info gitlabapi.ProjectInfo
	err := c.do(ctx, call{
		method: http.MethodGet,
		path:   gitlabapi.PathProjectInfo,
		query:  url.Values{"id": {id}},
		token:  token,
		into:   &info,
	})
	return info, err
}

// AuthorizeProxyUser asks whether a person may reach an agent's cluster, and as whom.
// ErrUnauthorized: what the person came with is no good; ErrForbidden, ErrNotFound: the
// person may not use this agent, or there is none.
func (c *Client) AuthorizeProxyUser(ctx context.Context, request gitlabapi.ProxyUserRequest) (gitlabapi.ProxyUser, error) {
	var user gitlabapi.ProxyUser
	body, err := json.Marshal(request) //nolint:gosec // RoR is to see the credential
	if err != nil {
		return user, fmt.Errorf("encode what a person came with to reach agent %d: %w", request.AgentID, err)
	}
	err = c.do(ctx, call{method: http.MethodPost, path: gitlabapi.PathAuthorizeProxyUser, body: body, into: &user})
	return user, err
}

// AllowedAgents asks which clusters the CI job that a token belongs to may reach.
// ErrUnauthorized: the token is no good, or its job is over.
func (c *Client) AllowedAgents(ctx context.Context, jobToken string) (gitlabapi.AllowedAgents, error) {
	var allowed gitlabapi.AllowedAgents
	err := c.do(ctx, call{method: http.MethodGet, path: gitlabapi.PathAllowedAgents, jobToken: jobToken, into: &allowed})
	return allowed, err
}

// PostAgentConfiguration tells RoR the configuration that an agent has now.
func (c *Client) PostAgentConfiguration(ctx context.Context, agentID int64, cfg *agentcfg.ConfigurationFile) error {
	what := call{method: http.MethodPost, path: gitlabapi.PathAgentConfiguration}
	encoded, err := marshal(what, cfg)
	if err != nil {
		return err
	}
	what.body, err = json.Marshal(gitlabapi.AgentConfiguration{AgentID: agentID, AgentConfig: json.RawMessage(encoded)})
	if err != nil {
		return fmt.Errorf("encode the configuration of agent %d: %w", agentID, err)
	}
	return c.do(ctx, what)
}

// PostSyncStatus tells RoR of one change of a status. update is not changed.
// ErrNoEndpoint: RoR does not take statuses, as GitLab does not.
func (c *Client) PostSyncStatus(ctx context.Context, update *syncstatus.Update) error {
	what := call{method: http.MethodPost, path: gitlabapi.PathSyncStatus}
	body, err := marshal(what, update)
	if err != nil {
		return err
	}
	what.body = body
	err = c.do(ctx, what)
	var answered *Error
	// A handler says in words what it did not find; a router has none.
	if errors.As(err, &answered) && answered.Status == http.StatusNotFound && answered.Message == "" {
		answered.kind = gitlabapi.ErrNoEndpoint
	}
	return err
}

// marshal makes the JSON that RoR reads: protobuf's, with the fields' own names.
func marshal(what call, m proto.Message) ([]byte, error) {
	encoded, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the body of %s %s: %w", what.method, what.path, err)
	}
	return encoded, nil
}

// Package gitlabapi holds the words of RoR's internal API for kas: paths, headers
// and JSON bodies. kas speaks them as a client and ror serves them; GitLab fixed
// them, so neither may change one alone.
package gitlabapi

import "encoding/json"

// BasePath of every endpoint for kas.
const BasePath = "/api/v4/internal/kubernetes"

// Endpoints below BasePath. PathSyncStatus is ours, beyond GitLab: the body is the
// protobuf JSON, with original field names, of a syncstatus.Update.
const (
	PathAgentInfo          = BasePath + "/agent_info"
	PathProjectInfo        = BasePath + "/project_info"
	PathAgentConfiguration = BasePath + "/agent_configuration"
	PathUsageMetrics       = BasePath + "/usage_metrics"
	PathAgentEvents        = BasePath + "/agent_events"
	PathAuthorizeProxyUser = BasePath + "/authorize_proxy_user"
	PathSyncStatus         = BasePath + "/sync_status"
)

// PathAllowedAgents is not below BasePath: a CI job asks it for itself, with its token in
// JobTokenHeader, and so does kas in its name.
const (
	PathAllowedAgents = "/api/v4/job/allowed_agents"
	JobTokenHeader    = "Job-Token"
)

// RequestHeader carries kas's JWT (see jwtauth).
const RequestHeader = "Gitlab-Kas-Api-Request"

// AgentInfo answers GET agent_info: who the bearer of an agent token is and where
// its configuration project lives.
type AgentInfo struct {
	ProjectID        int64            `json:"project_id"`
	AgentID          int64            `json:"agent_id"`
	AgentName        string           `json:"agent_name"`
	GitalyInfo       GitalyInfo       `json:"gitaly_info"`
	GitalyRepository GitalyRepository `json:"gitaly_repository"`
	DefaultBranch    string           `json:"default_branch"`
}

// ProjectInfo answers GET project_info?id=<full path or number>: where a manifest
// project lives, for an agent that may read it.
type ProjectInfo struct {
	ProjectID        int64            `json:"project_id"`
	GitalyInfo       GitalyInfo       `json:"gitaly_info"`
	GitalyRepository GitalyRepository `json:"gitaly_repository"`
	DefaultBranch    string           `json:"default_branch"`
}

// GitalyInfo is how to reach a Gitaly server.
type GitalyInfo struct {
	// Address is a URL: tcp://, tls:// or unix:.
	Address string `json:"address"`
	Token   string `json:"token"`
	// Features are Gitaly feature flags to send along as metadata.
	Features map[string]string `json:"features"`
}

// GitalyRepository names a repository to Gitaly. It is comparable: together with
// the server's address it identifies a repository.
type GitalyRepository struct {
	StorageName   string `json:"storage_name"`
	RelativePath  string `json:"relative_path"`
	GlRepository  string `json:"gl_repository"`
	GlProjectPath string `json:"gl_project_path"`
}

// AgentConfiguration is the body of POST agent_configuration. AgentConfig is the
// protobuf JSON of an agentcfg.ConfigurationFile.
type AgentConfiguration struct {
	AgentID     int64 `json:"agent_id"`
	AgentConfig any   `json:"agent_config"`
}

// UsageMetrics is the body of POST usage_metrics.
type UsageMetrics struct {
	Counters       map[string]int64   `json:"counters,omitempty"`
	UniqueCounters map[string][]int64 `json:"unique_counters,omitempty"`
}

// AccessType is how a person who asks for a cluster is known.
type AccessType string

// The ways, as GitLab names them.
const (
	AccessPersonalToken AccessType = "personal_access_token"
	AccessSessionCookie AccessType = "session_cookie"
)

// ProxyUserRequest is the body of POST authorize_proxy_user.
type ProxyUserRequest struct {
	AgentID    int64      `json:"agent_id"`
	AccessType AccessType `json:"access_type"`
	// AccessKey is a personal access token, or the value of the session cookie for kas.
	AccessKey string `json:"access_key"`
	// CSRFToken goes with a session cookie.
	CSRFToken string `json:"csrf_token,omitempty"`
}

// ProxyUser answers POST authorize_proxy_user: a person who may reach the agent's cluster,
// and as whom.
type ProxyUser struct {
	Agent    ConfiguredAgent `json:"agent"`
	User     User            `json:"user"`
	AccessAs ProxyAccessAs   `json:"access_as"`
}

// ConfiguredAgent is an agent and the project that it is configured in.
type ConfiguredAgent struct {
	ID            int64    `json:"id"`
	ConfigProject Numbered `json:"config_project"`
}

// Numbered is something that has a number.
type Numbered struct {
	ID int64 `json:"id"`
}

// User of RoR.
type User struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
}

// ProxyAccessAs has one of its fields.
type ProxyAccessAs struct {
	// Agent: as the agent itself.
	Agent *struct{} `json:"agent,omitempty"`
	// User: as the person, by where the person has got which roles.
	User *UserGrants `json:"user,omitempty"`
}

// UserGrants are the projects and groups of user_access that a person is at least a
// developer of.
type UserGrants struct {
	Projects []Grant `json:"projects"`
	Groups   []Grant `json:"groups"`
}

// Grant is the roles that a person has got in a project or group: "reporter", "developer",
// "maintainer", "owner", up to the person's own.
type Grant struct {
	ID    int64    `json:"id"`
	Roles []string `json:"roles"`
}

// AllowedAgents answers GET job/allowed_agents: which clusters a CI job may reach.
type AllowedAgents struct {
	AllowedAgents []AllowedAgent `json:"allowed_agents"`
	Job           Numbered       `json:"job"`
	Pipeline      Numbered       `json:"pipeline"`
	Project       JobProject     `json:"project"`
	User          User           `json:"user"`
	// Environment is nil for a job that has none.
	Environment *Environment `json:"environment,omitempty"`
}

// AllowedAgent is an agent that a CI job may use. Configuration is the protobuf JSON of the
// agentcfg.CiAccessProject or agentcfg.CiAccessGroup by which it may.
type AllowedAgent struct {
	ID            int64           `json:"id"`
	ConfigProject Numbered        `json:"config_project"`
	Configuration json.RawMessage `json:"configuration"`
}

// JobProject is the project of a CI job, with the groups above it from the root on.
type JobProject struct {
	ID     int64      `json:"id"`
	Groups []Numbered `json:"groups"`
}

// Environment that a CI job deploys to. Tier is for example "production".
type Environment struct {
	Slug string `json:"slug"`
	Tier string `json:"tier"`
}

// Message is the body of every error.
type Message struct {
	Message string `json:"message"`
}

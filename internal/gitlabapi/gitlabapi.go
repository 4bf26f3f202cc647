// Package gitlabapi holds the words of RoR's internal API for kas: paths, headers
// and JSON bodies. kas speaks them as a client and ror serves them; GitLab fixed
// them, so neither may change one alone.
package gitlabapi

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

// Message is the body of every error.
type Message struct {
	Message string `json:"message"`
}

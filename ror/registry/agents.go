package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Agent is a cluster's registration.
type Agent struct {
	ID   int64
	Name string
	// Project holds the agent's configuration.
	Project   Project
	CreatedBy int64
	CreatedAt time.Time
}

// AgentToken is what is known of an agent's token: not the token.
type AgentToken struct {
	ID          int64
	AgentID     int64
	Name        string
	Description string
	CreatedBy   int64
	CreatedAt   time.Time
	// LastUsedAt is exact to a minute; zero: never used.
	LastUsedAt time.Time
	Revoked    bool
}

// agentName is GitLab's rule: a DNS label.
var agentName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

const maxAgentName = 63

const (
	agentColumns = "agents.id, agents.name, agents.created_by, agents.created_at, " + projectColumns
	agentTables  = "agents JOIN projects ON projects.id = agents.project_id JOIN namespaces ON namespaces.id = projects.namespace_id"
)

func (a *Agent) fields(created, projectCreated *int64) []any {
	return append([]any{&a.ID, &a.Name, &a.CreatedBy, created}, a.Project.fields(projectCreated)...)
}

func scanAgent(s scanner) (Agent, error) {
	var a Agent
	var created, projectCreated int64
	err := s.Scan(a.fields(&created, &projectCreated)...)
	a.CreatedAt, a.Project.CreatedAt = toTime(created), toTime(projectCreated)
	return a, err
}

// CreateAgent registers an agent in a project.
func (r *Registry) CreateAgent(ctx context.Context, p Project, name string, createdBy int64) (Agent, error) {
	if len(name) > maxAgentName || !agentName.MatchString(name) {
		return Agent{}, &InvalidError{"name", fmt.Sprintf("can contain only lowercase letters, digits, and '-', but cannot start or end with '-', "+
			"and has at most %d characters", maxAgentName)}
	}
	a := Agent{Name: name, Project: p, CreatedBy: createdBy, CreatedAt: toTime(r.now())}
	err := r.tx(ctx, func(tx *sql.Tx) error {
		var err error
		a.ID, err = insert(ctx, tx, "agent "+name, "INSERT INTO agents (project_id, name, created_by, created_at) VALUES (?, ?, ?, ?)",
			p.ID, name, createdBy, a.CreatedAt.UnixMilli())
		return err
	})
	return a, err
}

// Agent returns an agent by number.
func (r *Registry) Agent(ctx context.Context, id int64) (Agent, error) {
	return one(ctx, r.read, fmt.Sprintf("agent %d", id), scanAgent, "SELECT "+agentColumns+" FROM "+agentTables+" WHERE agents.id = ?", id)
}

// AgentByName returns an agent of a project.
func (r *Registry) AgentByName(ctx context.Context, projectID int64, name string) (Agent, error) {
	return one(ctx, r.read, "agent "+name, scanAgent,
		"SELECT "+agentColumns+" FROM "+agentTables+" WHERE agents.project_id = ? AND agents.name = ?", projectID, name)
}

// AgentsOf lists a project's agents by name.
func (r *Registry) AgentsOf(ctx context.Context, projectID int64) ([]Agent, error) {
	return many(ctx, r.read, "agents", scanAgent,
		"SELECT "+agentColumns+" FROM "+agentTables+" WHERE agents.project_id = ? ORDER BY agents.name LIMIT ?", projectID, MaxList)
}

// Agents lists the agents that a user may see, by project and name.
func (r *Registry) Agents(ctx context.Context, u User) ([]Agent, error) {
	return many(ctx, r.read, "agents", scanAgent, "SELECT "+agentColumns+" FROM "+agentTables+`
		WHERE ? OR namespaces.owner_id = ? OR EXISTS (SELECT 1 FROM members
			WHERE members.project_id = projects.id AND members.user_id = ? AND members.access_level >= ?)
		ORDER BY projects.full_path, agents.name LIMIT ?`, u.Admin, u.ID, u.ID, Developer, MaxList)
}

// DeleteAgent forgets an agent, its tokens and its statuses.
func (r *Registry) DeleteAgent(ctx context.Context, id int64) error {
	return r.revoke(ctx, id, fmt.Sprintf("delete agent %d", id), "DELETE FROM agents WHERE id = ?", id)
}

// revoke takes something of an agent away, and has it told.
func (r *Registry) revoke(ctx context.Context, agentID int64, what, query string, args ...any) error {
	if err := r.execOne(ctx, what, query, args...); err != nil {
		return err
	}
	r.onRevoked(agentID)
	return nil
}

// CreateAgentToken returns what is known of the new token, and the token itself.
func (r *Registry) CreateAgentToken(ctx context.Context, agentID int64, name, description string, createdBy int64) (AgentToken, string, error) {
	if err := validateName(name); err != nil {
		return AgentToken{}, "", err
	}
	if len(description) > 1024 {
		return AgentToken{}, "", &InvalidError{"description", "is too long (maximum is 1024 characters)"}
	}
	token := newToken(prefixAgent)
	t := AgentToken{AgentID: agentID, Name: name, Description: description, CreatedBy: createdBy, CreatedAt: toTime(r.now())}
	err := r.tx(ctx, func(tx *sql.Tx) error {
		var err error
		t.ID, err = insert(ctx, tx, "agent token",
			"INSERT INTO agent_tokens (agent_id, name, description, token_hash, created_by, created_at) VALUES (?, ?, ?, ?, ?, ?)",
			agentID, name, description, hashToken(token), createdBy, t.CreatedAt.UnixMilli())
		return err
	})
	return t, token, err
}

//nolint:gosec // names of columns
const agentTokenFields = "id, agent_id, name, description, created_by, created_at, last_used_at, revoked"

func scanToken(s scanner) (AgentToken, error) {
	var t AgentToken
	var created int64
	var used sql.NullInt64
	err := s.Scan(&t.ID, &t.AgentID, &t.Name, &t.Description, &t.CreatedBy, &created, &used, &t.Revoked)
	t.CreatedAt, t.LastUsedAt = toTime(created), toOptionalTime(used)
	return t, err
}

// AgentTokens lists an agent's tokens that are not revoked, newest first.
func (r *Registry) AgentTokens(ctx context.Context, agentID int64) ([]AgentToken, error) {
	return many(ctx, r.read, "agent tokens", scanToken,
		"SELECT "+agentTokenFields+" FROM agent_tokens WHERE agent_id = ? AND NOT revoked ORDER BY id DESC LIMIT ?", agentID, MaxList)
}

// AgentToken returns one of an agent's tokens.
func (r *Registry) AgentToken(ctx context.Context, agentID, tokenID int64) (AgentToken, error) {
	return one(ctx, r.read, fmt.Sprintf("token %d", tokenID), scanToken,
		"SELECT "+agentTokenFields+" FROM agent_tokens WHERE agent_id = ? AND id = ?", agentID, tokenID)
}

// RevokeAgentToken ends one of an agent's tokens.
func (r *Registry) RevokeAgentToken(ctx context.Context, agentID, tokenID int64) error {
	return r.revoke(ctx, agentID, fmt.Sprintf("revoke token %d", tokenID),
		"UPDATE agent_tokens SET revoked = 1 WHERE agent_id = ? AND id = ? AND NOT revoked", agentID, tokenID)
}

// AgentByToken returns whose token this is, and notes its use; ErrUnauthorized for
// one that is unknown or revoked.
func (r *Registry) AgentByToken(ctx context.Context, token string) (Agent, error) {
	var id int64
	var used sql.NullInt64
	a, err := one(ctx, r.read, "agent token", func(s scanner) (Agent, error) {
		var a Agent
		var created, projectCreated int64
		err := s.Scan(append(a.fields(&created, &projectCreated), &id, &used)...)
		a.CreatedAt, a.Project.CreatedAt = toTime(created), toTime(projectCreated)
		return a, err
	}, "SELECT "+agentColumns+", agent_tokens.id, agent_tokens.last_used_at FROM "+agentTables+
		" JOIN agent_tokens ON agent_tokens.agent_id = agents.id WHERE agent_tokens.token_hash = ? AND NOT agent_tokens.revoked", hashToken(token))
	if errors.Is(err, ErrNotFound) {
		return Agent{}, ErrUnauthorized
	}
	if err != nil {
		return Agent{}, err
	}
	return a, r.noteUse(ctx, noteAgentUse, id, toOptionalTime(used), r.clock.Now())
}

// SetAgentConfiguration keeps the agent's configuration file as kas read it: the
// protobuf JSON of an agentcfg.ConfigurationFile.
func (r *Registry) SetAgentConfiguration(ctx context.Context, agentID int64, configuration []byte) error {
	return r.execOne(ctx, fmt.Sprintf("store configuration of agent %d", agentID),
		"UPDATE agents SET configuration = ? WHERE id = ?", string(configuration), agentID)
}

// AgentConfiguration returns what SetAgentConfiguration kept, empty before that.
func (r *Registry) AgentConfiguration(ctx context.Context, agentID int64) ([]byte, error) {
	return one(ctx, r.read, fmt.Sprintf("configuration of agent %d", agentID), func(s scanner) ([]byte, error) {
		var b []byte
		err := s.Scan(&b)
		return b, err
	}, "SELECT coalesce(configuration, '') FROM agents WHERE id = ?", agentID)
}

// ConfiguredAgent is an agent and what SetAgentConfiguration kept of it, empty before that.
type ConfiguredAgent struct {
	Agent
	Configuration []byte
}

// AgentsBelow lists the agents whose configuration projects have this first part of their
// full path, by project and name.
func (r *Registry) AgentsBelow(ctx context.Context, topNamespace string) ([]ConfiguredAgent, error) {
	return many(ctx, r.read, "agents", func(s scanner) (ConfiguredAgent, error) {
		var a ConfiguredAgent
		var created, projectCreated int64
		err := s.Scan(append(a.fields(&created, &projectCreated), &a.Configuration)...)
		a.CreatedAt, a.Project.CreatedAt = toTime(created), toTime(projectCreated)
		return a, err
		// '0' comes after '/'.
	}, "SELECT "+agentColumns+", coalesce(agents.configuration, '') FROM "+agentTables+`
		WHERE projects.full_path > ? AND projects.full_path < ? ORDER BY projects.full_path, agents.name LIMIT ?`,
		topNamespace+"/", topNamespace+"0", MaxList)
}

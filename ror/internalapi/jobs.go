package internalapi

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/ror/jsonhttp"
	"github.com/kas-agentk/kas/ror/registry"
)

// allowedAgents tells a CI job, or kas in its name, which clusters it may reach, by
// ci_access of the agents' configurations.
func (s *Server) allowedAgents(w http.ResponseWriter, r *http.Request) error {
	job, err := s.registry.JobByToken(r.Context(), r.Header.Get(gitlabapi.JobTokenHeader))
	if err != nil {
		return err
	}
	groups, err := s.registry.GroupsAbove(r.Context(), job.Project)
	if err != nil {
		return err
	}
	// Only what shares the root with the job's project, like everything in GitLab's ci_access.
	agents, err := s.registry.AgentsBelow(r.Context(), job.Project.TopNamespace())
	if err != nil {
		return err
	}
	answer := gitlabapi.AllowedAgents{
		AllowedAgents: []gitlabapi.AllowedAgent{},
		Job:           gitlabapi.Numbered{ID: job.ID},
		Pipeline:      gitlabapi.Numbered{ID: job.ID},
		Project:       gitlabapi.JobProject{ID: job.Project.ID, Groups: make([]gitlabapi.Numbered, 0, len(groups))},
		User:          gitlabapi.User{ID: job.User.ID, Username: job.User.Username},
	}
	for _, g := range groups {
		answer.Project.Groups = append(answer.Project.Groups, gitlabapi.Numbered{ID: g.ID})
	}
	if e := job.Environment; e.Name != "" {
		answer.Environment = &gitlabapi.Environment{Slug: e.Slug, Tier: e.Tier}
	}
	for _, a := range agents {
		allowed, err := allow(job, groups, a)
		if err != nil { // must not take the other agents from all jobs
			s.cfg.Log.Error("an agent is not offered to CI jobs", zap.Int64("agent_id", a.ID), zap.Error(err))
			continue
		}
		if allowed != nil {
			answer.AllowedAgents = append(answer.AllowedAgents, *allowed)
		}
	}
	jsonhttp.Write(w, http.StatusOK, answer)
	return nil
}

// allow returns an agent as a job may use it, or nil.
func allow(job registry.Job, groups []registry.Group, a registry.ConfiguredAgent) (*gitlabapi.AllowedAgent, error) {
	cfg, err := parseConfiguration(a.ID, a.Configuration)
	if err != nil {
		return nil, err
	}
	entry := entryFor(job.Project, groups, a.Agent, cfg.GetCiAccess())
	if entry == nil || !admits(entry, job) {
		return nil, nil //nolint:nilnil // no agent is none
	}
	// Without the id, as GitLab has it: it is a field of both messages.
	shown := proto.Clone(entry)
	shown.ProtoReflect().Clear(shown.ProtoReflect().Descriptor().Fields().ByName("id"))
	configuration, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(shown)
	if err != nil {
		return nil, fmt.Errorf("show ci_access of agent %d: %w", a.ID, err)
	}
	return &gitlabapi.AllowedAgent{
		ID: a.ID, ConfigProject: gitlabapi.Numbered{ID: a.Project.ID}, Configuration: configuration,
	}, nil
}

// accessEntry is an entry of ci_access.
type accessEntry interface {
	proto.Message
	GetId() string
	GetEnvironments() []string
	GetProtectedBranchesOnly() bool
}

// entryFor is by what an agent lets jobs of a project in, the most specific first: an
// entry for the project; that both are of the same project; an entry for the innermost of
// its groups. nil: it does not. Of entries with one id the last counts, as in GitLab.
func entryFor(p registry.Project, groups []registry.Group, a registry.Agent, access *agentcfg.CiAccess) accessEntry {
	for _, e := range slices.Backward(access.GetProjects()) {
		if strings.EqualFold(e.GetId(), p.FullPath) {
			return e
		}
	}
	if a.Project.ID == p.ID {
		return &agentcfg.CiAccessProject{}
	}
	for _, g := range slices.Backward(groups) {
		for _, e := range slices.Backward(access.GetGroups()) {
			if strings.EqualFold(e.GetId(), g.FullPath) {
				return e
			}
		}
	}
	return nil
}

// admits tells whether an entry lets in a job of that environment and ref.
func admits(e accessEntry, job registry.Job) bool {
	if e.GetProtectedBranchesOnly() && !job.Protected() {
		return false
	}
	return len(e.GetEnvironments()) == 0 || slices.ContainsFunc(e.GetEnvironments(), func(pattern string) bool {
		return matchesEnvironment(pattern, job.Environment.Name)
	})
}

// matchesEnvironment tells whether a pattern, in which * stands for anything, is of an
// environment of that name: of all of it, while GitLab's may begin anywhere in it.
func matchesEnvironment(pattern, name string) bool {
	if pattern == "" || name == "" {
		return false
	}
	quoted := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	match, err := regexp.MatchString(`\A`+quoted+`\z`, name)
	return err == nil && match
}

// parseConfiguration reads what the registry keeps of an agent's configuration.
func parseConfiguration(agentID int64, stored []byte) (*agentcfg.ConfigurationFile, error) {
	cfg := &agentcfg.ConfigurationFile{}
	if len(stored) == 0 {
		return cfg, nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(stored, cfg); err != nil {
		return nil, fmt.Errorf("configuration of agent %d: %w", agentID, err)
	}
	return cfg, nil
}

package control

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"go.uber.org/zap"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/registry"
)

// Kas does what it is told, in time, or returns an error of package kasapi.
type Kas interface {
	Sync(context.Context, *railsrpc.SyncRequest) error
	Suspend(context.Context, *railsrpc.SuspendRequest) error
	Resume(context.Context, *railsrpc.ResumeRequest) error
	ApprovePrune(context.Context, *railsrpc.ApprovePruneRequest) error
	Diff(context.Context, *railsrpc.DiffRequest) (*railsrpc.DiffResponse, error)
}

// Verb is what is to be done, named as in the paths of the REST API.
type Verb string

// The verbs.
const (
	Sync         Verb = "sync"
	Suspend      Verb = "suspend"
	Resume       Verb = "resume"
	ApprovePrune Verb = "approve_prune"
	diff         Verb = "diff"
)

// Target is a manifest project in a cluster, and who wants something of it.
type Target struct {
	Agent registry.Agent
	// Project as the agent's configuration names it, or its full path. Empty: the
	// only one that the agent follows.
	Project string
	By      registry.User
}

// Command is what is to be done to a target.
type Command struct {
	Target
	Verb Verb
	// Commit whose deletions are approved of, its full ID; for ApprovePrune only.
	Commit string
}

// Control is safe for concurrent use.
type Control struct {
	registry *registry.Registry
	kas      Kas
	log      *zap.Logger
}

// New returns a Control that keeps its record in log.
func New(r *registry.Registry, kas Kas, log *zap.Logger) *Control {
	return &Control{registry: r, kas: kas, log: log}
}

// fullCommit is a commit's whole ID, by SHA-1 or SHA-256.
var fullCommit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// Do has a command carried out. For Sync that is done when the agent has taken it.
func (c *Control) Do(ctx context.Context, cmd Command) error {
	if cmd.Verb == ApprovePrune && !fullCommit.MatchString(cmd.Commit) {
		return &Error{http.StatusBadRequest, "commit_id is invalid: want a whole commit ID of 40 hexadecimal digits"}
	}
	project, err := c.resolve(ctx, cmd.Target)
	if err != nil {
		return err
	}
	agent, by := cmd.Agent.ID, cmd.By.Username
	switch cmd.Verb {
	case Sync:
		err = c.kas.Sync(ctx, &railsrpc.SyncRequest{AgentId: agent, ProjectId: project, By: by})
	case Suspend:
		err = c.kas.Suspend(ctx, &railsrpc.SuspendRequest{AgentId: agent, ProjectId: project, By: by})
	case Resume:
		err = c.kas.Resume(ctx, &railsrpc.ResumeRequest{AgentId: agent, ProjectId: project, By: by})
	case ApprovePrune:
		err = c.kas.ApprovePrune(ctx, &railsrpc.ApprovePruneRequest{AgentId: agent, ProjectId: project, By: by, CommitId: cmd.Commit})
	default:
		return &Error{http.StatusNotFound, fmt.Sprintf("there is no command %q", cmd.Verb)}
	}
	c.record(cmd.Verb, cmd.Target, project, err, zap.String("commit", cmd.Commit))
	return toError(err)
}

// Ref names a commit: at most one field is set. None: what the project follows.
type Ref struct {
	Branch string `json:"branch"`
	Tag    string `json:"tag"`
	Commit string `json:"commit"`
}

func (r Ref) toProto() (*agentcfg.GitRef, error) {
	ref := &agentcfg.GitRef{}
	set := 0
	if r.Branch != "" {
		ref.Ref = &agentcfg.GitRef_Branch{Branch: r.Branch}
		set++
	}
	if r.Tag != "" {
		ref.Ref = &agentcfg.GitRef_Tag{Tag: r.Tag}
		set++
	}
	if r.Commit != "" {
		ref.Ref = &agentcfg.GitRef_Commit{Commit: r.Commit}
		set++
	}
	switch {
	case set == 0:
		return nil, nil
	case set > 1:
		return nil, &Error{http.StatusBadRequest, "branch, tag, commit are mutually exclusive"}
	case r.Commit != "" && !fullCommit.MatchString(r.Commit):
		return nil, &Error{http.StatusBadRequest, "commit is invalid: want a whole commit ID of 40 hexadecimal digits"}
	}
	return ref, nil
}

// Diff tells what a commit would do to a cluster. Nothing is changed.
func (c *Control) Diff(ctx context.Context, t Target, r Ref) (*railsrpc.DiffResponse, error) {
	ref, err := r.toProto()
	if err != nil {
		return nil, err
	}
	project, err := c.resolve(ctx, t)
	if err != nil {
		return nil, err
	}
	res, err := c.kas.Diff(ctx, &railsrpc.DiffRequest{AgentId: t.Agent.ID, ProjectId: project, By: t.By.Username, Ref: ref})
	c.record(diff, t, project, err, zap.String("branch", r.Branch), zap.String("tag", r.Tag), zap.String("commit", r.Commit))
	return res, toError(err)
}

// record is the audit log: who wanted what.
func (c *Control) record(verb Verb, t Target, project string, err error, more ...zap.Field) {
	c.log.Info("command", append([]zap.Field{
		zap.String("command", string(verb)), zap.String("user", t.By.Username), zap.Int64("user_id", t.By.ID),
		zap.Int64("agent_id", t.Agent.ID), zap.String("agent", t.Agent.Project.FullPath+":"+t.Agent.Name),
		zap.String("manifest_project", project), zap.Bool("done", err == nil), zap.Error(err),
	}, more...)...)
}

// resolve finds what the agent's configuration calls the project.
func (c *Control) resolve(ctx context.Context, t Target) (string, error) {
	statuses, err := c.registry.Statuses(ctx, t.Agent.ID, t.Project, false)
	if err != nil {
		return "", fmt.Errorf("find the manifest project: %w", err)
	}
	switch {
	case len(statuses) == 1:
		return statuses[0].GetProjectId(), nil
	case t.Project != "": // kas may know more than has reached the registry
		return t.Project, nil
	case len(statuses) == 0:
		return "", &Error{http.StatusNotFound, "agent " + t.Agent.Name + " follows no manifest project, as far as is known"}
	}
	names := make([]string, 0, len(statuses))
	for _, s := range statuses {
		names = append(names, s.GetProjectId())
	}
	return "", &Error{http.StatusBadRequest, "manifest_project is missing: the agent follows " + strings.Join(names, ", ")}
}

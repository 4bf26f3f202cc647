package harness

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

// Person is who gives the commands of tests.
const Person = "ann"

// Controls asks kas as RoR does, about the fixture's agent and manifest project.
type Controls struct {
	f      *Fixture
	client railsrpc.SyncStatusClient
}

// Controls of the Env's kas.
func (f *Fixture) Controls() *Controls { return f.ControlsAt(f.Stack.KasAPIAddress) }

// ControlsAt is Controls of the kas whose API for RoR is at that address.
func (f *Fixture) ControlsAt(address string) *Controls {
	f.T.Helper()
	return &Controls{f: f, client: railsrpc.NewSyncStatusClient(f.DialAPI(address))}
}

// Sync has the project synced now.
func (c *Controls) Sync() error {
	_, err := c.client.Sync(c.f.T.Context(), &railsrpc.SyncRequest{AgentId: c.f.Agent.ID, ProjectId: c.f.Manifests.Path, By: Person})
	return err
}

// Suspend suspends the project.
func (c *Controls) Suspend() error {
	_, err := c.client.Suspend(c.f.T.Context(), &railsrpc.SuspendRequest{AgentId: c.f.Agent.ID, ProjectId: c.f.Manifests.Path, By: Person})
	return err
}

// Resume ends that.
func (c *Controls) Resume() error {
	_, err := c.client.Resume(c.f.T.Context(), &railsrpc.ResumeRequest{AgentId: c.f.Agent.ID, ProjectId: c.f.Manifests.Path, By: Person})
	return err
}

// Approve approves of a commit's deletions.
func (c *Controls) Approve(commit string) error {
	_, err := c.client.ApprovePrune(c.f.T.Context(), &railsrpc.ApprovePruneRequest{
		AgentId: c.f.Agent.ID, ProjectId: c.f.Manifests.Path, By: Person, CommitId: commit,
	})
	return err
}

// Diff is what a branch (empty: what the project follows) would do.
type Diff struct {
	Commit      string
	Errors      []*syncstatus.FileError
	Differences []*syncstatus.Difference
}

// Diff compares a branch with the cluster.
func (c *Controls) Diff(branch string) (Diff, error) {
	req := &railsrpc.DiffRequest{AgentId: c.f.Agent.ID, ProjectId: c.f.Manifests.Path, By: Person}
	if branch != "" {
		req.Ref = &agentcfg.GitRef{Ref: &agentcfg.GitRef_Branch{Branch: branch}}
	}
	ctx, cancel := context.WithTimeout(c.f.T.Context(), time.Minute)
	defer cancel()
	stream, err := c.client.Diff(ctx, req)
	var all Diff
	for err == nil {
		var part *railsrpc.DiffResponse
		if part, err = stream.Recv(); err == nil {
			if part.GetCommitId() != "" {
				all.Commit, all.Errors = part.GetCommitId(), part.GetErrors()
			}
			all.Differences = append(all.Differences, part.GetDifferences()...)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}

package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kas-agentk/kas/api/syncstatus"
)

const (
	// askEvery is the wait between two looks at the status.
	askEvery = 100 * time.Millisecond
	// patience of a first run, whose sample is known to be good; patienceLater of one
	// whose project may hold whatever its user pushed.
	patience      = 5 * time.Minute
	patienceLater = 30 * time.Second
)

// waitSynced waits until the sample project is in step, and says how it goes. In a
// later run the project may be one that never will be: then it says so and goes on.
func (d *demo) waitSynced(ctx context.Context) error {
	limit := patienceLater
	if d.sample.fresh {
		limit = patience
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	said := ""
	for {
		status, err := d.status(ctx)
		now := describe(status, err)
		if err == nil && d.settled(status) {
			d.say("%s is %s", manifestProject, now)
			return nil
		}
		if now != said {
			d.say("waiting for %s: %s", manifestProject, now)
			said = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			if !d.sample.fresh {
				d.say("%s is not in step; going on", manifestProject)
				return nil
			}
			return fmt.Errorf("%s is not in step after %s: %s (logs are in %s)", manifestProject, limit, now, d.cfg.Dir)
		}
	}
}

// status is the project's, or nil where ror has none.
func (d *demo) status(ctx context.Context) (*syncstatus.ProjectStatus, error) {
	all, err := d.stack.Client().SyncStatus(ctx, configProject, d.sample.agentID)
	if err != nil {
		return nil, err
	}
	if e := all.Configuration.GetError(); e != nil {
		return nil, fmt.Errorf("the agent's configuration is at fault: %s:%d: %s", e.GetPath(), e.GetLine(), e.GetMessage())
	}
	for _, status := range all.Projects {
		if status.GetProjectId() == manifestProject {
			return status, nil
		}
	}
	return nil, nil //nolint:nilnil // no status is none
}

// settled tells whether a status is of this run, of the newest commit, and final.
func (d *demo) settled(s *syncstatus.ProjectStatus) bool {
	if !s.GetConnected() || s.GetWantedCommit() != d.sample.commit || s.GetUpdatedAt().AsTime().Before(d.began) {
		return false
	}
	switch s.GetState() {
	case syncstatus.State_STATE_SYNCED:
		return s.GetAppliedCommit() == d.sample.commit
	case syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_FAILED, syncstatus.State_STATE_SUSPENDED:
		return !d.sample.fresh
	default:
		return false
	}
}

// describe is a status in a few words.
func describe(s *syncstatus.ProjectStatus, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case s == nil:
		return "no status yet"
	}
	words := []string{strings.ToLower(strings.TrimPrefix(s.GetState().String(), "STATE_"))}
	if commit := s.GetAppliedCommit(); commit != "" {
		words = append(words, "at "+commit[:min(8, len(commit))])
	}
	if c := s.GetCounts(); c.GetTotal() > 0 {
		words = append(words, fmt.Sprintf("with %d objects", c.GetTotal()))
	}
	if s.GetMessage() != "" {
		words = append(words, "("+s.GetMessage()+")")
	}
	return strings.Join(words, " ")
}

package kasctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kas-agentk/kas/api/syncstatus"
)

// exitUnsynced is the exit status for what is not synced.
const exitUnsynced = 3

// unsyncedError says what is not synced.
type unsyncedError struct{ what string }

// Error implements error.
func (e *unsyncedError) Error() string { return "not synced: " + e.what }

// ExitCode implements what program.Run asks for.
func (e *unsyncedError) ExitCode() int { return exitUnsynced }

// unsynced returns nil when every project is synced (at commit, unless that is
// empty), else an *unsyncedError that says what is missing.
func unsynced(statuses []*agentStatus, commit string) error {
	var missing []string
	projects := 0
	for _, s := range statuses {
		if e := s.configuration.GetError(); e.GetMessage() != "" {
			missing = append(missing, fmt.Sprintf("%s: %s", s.agent.fullName(), fileError(e)))
		}
		for _, p := range s.projects {
			projects++
			if why := projectUnsynced(p, commit); why != "" {
				missing = append(missing, fmt.Sprintf("%s in %s: %s", p.GetProjectId(), s.agent.fullName(), why))
			}
		}
	}
	switch {
	case len(missing) > 0:
		return &unsyncedError{oneLine(strings.Join(missing, "; "))}
	case projects == 0:
		return &unsyncedError{"there is no such manifest project in the configuration of the agent (yet)"}
	}
	return nil
}

// projectUnsynced says why a project is not synced; empty: it is.
func projectUnsynced(p *syncstatus.ProjectStatus, commit string) string {
	switch {
	case p.GetState() != syncstatus.State_STATE_SYNCED && p.GetMessage() != "":
		return stateName(p.GetState()) + " (" + clip(p.GetMessage(), 300) + ")"
	case p.GetState() != syncstatus.State_STATE_SYNCED:
		return stateName(p.GetState())
	case commit != "" && !strings.HasPrefix(p.GetAppliedCommit(), strings.ToLower(commit)):
		return "synced at " + short(p.GetAppliedCommit()) + ", not at " + short(commit)
	}
	return ""
}

// isCommit tells whether s may be the start of a commit ID.
func isCommit(s string) bool {
	return len(s) >= 7 && len(s) <= 64 && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

// runWait waits until everything is synced.
func (s *statusOptions) runWait(ctx context.Context, c *client, out, progress io.Writer) error {
	return s.waitFor(ctx, c, out, progress, func(statuses []*agentStatus) (bool, error) {
		err := unsynced(statuses, s.commit)
		return err == nil, err
	})
}

// verdict tells whether there is nothing to wait for any more, and what is not synced.
type verdict func([]*agentStatus) (ended bool, err error)

// waitFor asks until the verdict is final or the time is up, shows the status as it is
// then, and says on progress what it waits for.
func (s *statusOptions) waitFor(ctx context.Context, c *client, out, progress io.Writer, judge verdict) error {
	deadline := s.clock.NewTimer(s.timeout)
	defer deadline.Stop()
	said := ""
	for {
		statuses, err := s.fetch(ctx, c, false)
		if err != nil && !errors.As(err, &passingError{}) {
			return err
		}
		reason := err
		if err == nil {
			var ended bool
			if ended, reason = judge(statuses); ended {
				if err := s.writeNow(ctx, c, out); err != nil {
					return err
				}
				return reason
			}
		}
		if text := reason.Error(); text != said {
			said = text
			if _, err := fmt.Fprintf(progress, "waiting: %s\n", text); err != nil {
				return err //nolint:wrapcheck // nothing to add
			}
		}
		tick := s.clock.NewTimer(s.interval)
		select {
		case <-tick.C():
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("interrupted: %w", reason)
		case <-deadline.C():
			tick.Stop()
			if err == nil { // else there is nothing to show
				if err := s.writeNow(ctx, c, out); err != nil {
					return err
				}
			}
			return fmt.Errorf("after %s still %w", s.timeout, reason)
		}
	}
}

// writeNow shows the status as it is now.
func (s *statusOptions) writeNow(ctx context.Context, c *client, out io.Writer) error {
	statuses, err := s.fetch(ctx, c, s.objects)
	if err != nil {
		return err
	}
	return s.write(out, statuses)
}

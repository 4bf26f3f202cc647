package kasctl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/program"
)

func (o *options) syncCommand() *cobra.Command {
	s := &statusOptions{options: o, objects: true}
	cmd := &cobra.Command{
		Use:   "sync AGENT [PROJECT]",
		Short: "Look at the repository and sync now",
		Long: `sync has kas look at the repository at once and the agent run the newest commit again,
without waiting for the next poll or for what failed to be tried again.

With --wait it shows the status when the sync has ended: exit status 0 when everything is
synced, 3 when something failed, is suspended, or is not done within --timeout. In CI:

  kasctl sync production "$CI_PROJECT_PATH" --wait --commit "$CI_COMMIT_SHA"` + projectHelp,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.commit != "" && !s.wait {
				return program.Usage(errSyncCommit)
			}
			if err := s.validate(); err != nil {
				return program.Usage(err)
			}
			return o.run(cmd.Context(), args, func(c *client, t *target) error {
				if !s.wait {
					return o.carryOut(cmd.Context(), c, t, cmd.OutOrStdout(), "sync", "told to sync", commandBody{})
				}
				if _, err := c.command(cmd.Context(), t, "sync", commandBody{}); err != nil {
					return err
				}
				s.agent, s.project = t.agent.fullName(), t.project.GetProjectId()
				return s.runSyncWait(cmd.Context(), c, t.project, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	o.addOutputFlag(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&s.wait, "wait", false, "wait until the sync has ended; exit with status 3 unless everything is synced")
	flags.StringVar(&s.commit, "commit", "", "with --wait: the commit that is waited for (at least 7 digits)")
	s.addWaitFlags(cmd)
	return cmd
}

// runSyncWait waits for the end of a sync of a project that was as before when it was
// asked for.
func (s *statusOptions) runSyncWait(ctx context.Context, c *client, before *syncstatus.ProjectStatus, out, progress io.Writer) error {
	verdict := func(statuses []*agentStatus) (bool, error) {
		if len(statuses[0].projects) == 0 {
			return true, &unsyncedError{"the agent's configuration does not name the project any more"}
		}
		now := statuses[0].projects[0]
		switch {
		case s.commit != "" && !strings.HasPrefix(now.GetWantedCommit(), strings.ToLower(s.commit)):
			return false, &unsyncedError{fmt.Sprintf("the repository is at %s as far as kas has seen", short(now.GetWantedCommit()))}
		case s.commit == "" && !ranSince(before, now):
			return false, &unsyncedError{"the agent has not ended a run since"}
		}
		return hasEnded(now), unsynced(statuses, s.commit)
	}
	return s.waitFor(ctx, c, out, progress, verdict)
}

// ranSince tells whether the agent has ended a run over the set. An agent that does not
// tell when it ran has said something, at least. One that is suspended runs nothing.
func ranSince(before, now *syncstatus.ProjectStatus) bool {
	if now.GetTimes().GetRanAt() == nil || now.GetSuspension() != nil {
		return !proto.Equal(now.GetUpdatedAt(), before.GetUpdatedAt())
	}
	return !proto.Equal(now.GetTimes().GetRanAt(), before.GetTimes().GetRanAt())
}

// hasEnded tells whether a sync has come to an end, good or bad.
func hasEnded(p *syncstatus.ProjectStatus) bool {
	switch p.GetState() {
	case syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_FAILED:
		return p.GetAppliedCommit() == p.GetWantedCommit() || p.GetCounts().GetFailed() > 0
	case syncstatus.State_STATE_SYNCED, syncstatus.State_STATE_SUSPENDED:
		return true
	}
	return false
}

// addWaitFlags adds how long to wait and how often to ask.
func (s *statusOptions) addWaitFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&s.timeout, "timeout", 5*time.Minute, "how long to --wait")
	flags.DurationVar(&s.interval, "interval", time.Second, "how often to ask")
}

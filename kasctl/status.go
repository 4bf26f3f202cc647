package kasctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/internal/program"
)

// statusOptions of the command status.
type statusOptions struct {
	*options
	agent    string
	project  string
	objects  bool
	exitCode bool
	wait     bool
	commit   string
	timeout  time.Duration
	watch    bool
	interval time.Duration
}

func (o *options) statusCommand() *cobra.Command {
	s := &statusOptions{options: o}
	cmd := &cobra.Command{
		Use:   "status [AGENT]",
		Short: "Show how far manifest projects are synced",
		Long: `status shows the manifest projects of one agent, or of all: the commit that the
repository has and the one that the cluster holds, the state, and what is wrong where.

AGENT is an agent's name, its number, or CONFIG-PROJECT:NAME where names are ambiguous.

In CI, wait for a commit to be in the cluster and healthy:

  kasctl status production --project "$CI_PROJECT_PATH" --wait --commit "$CI_COMMIT_SHA"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				s.agent = args[0]
			}
			if !cmd.Flags().Changed("objects") {
				s.objects = s.agent != "" || s.output == formatWide
			}
			return s.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.addOutputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.project, "project", "", "only this manifest project, by the id or the full path that it is configured by")
	flags.BoolVar(&s.objects, "objects", false, "show objects (default: true for one agent or -o wide)")
	flags.BoolVar(&s.exitCode, "exit-code", false, "exit with status 3 unless everything is synced")
	flags.BoolVar(&s.wait, "wait", false, "wait until everything is synced; exit with status 3 when --timeout runs out first")
	flags.StringVar(&s.commit, "commit", "", "with --wait or --exit-code: synced means that this commit is applied (at least 7 digits)")
	flags.BoolVarP(&s.watch, "watch", "w", false, "show the status again and again, until interrupted")
	s.addWaitFlags(cmd)
	return cmd
}

var (
	errWaitAndWatch = errors.New("--wait and --watch exclude each other")
	errShortCommit  = errors.New("--commit: want 7 to 64 hexadecimal digits")
	errNoEffect     = errors.New("--commit has an effect with --wait or --exit-code only")
	errSyncCommit   = errors.New("--commit has an effect with --wait only")
	errInterval     = errors.New("--interval and --timeout: want more than zero")
)

func (s *statusOptions) validate() error {
	switch {
	case s.wait && s.watch:
		return errWaitAndWatch
	case s.commit != "" && !isCommit(s.commit):
		return errShortCommit
	case s.commit != "" && !s.wait && !s.exitCode:
		return errNoEffect
	case s.interval <= 0 || s.timeout <= 0:
		return errInterval
	}
	return checkFormat(s.output)
}

func (s *statusOptions) run(ctx context.Context, out, progress io.Writer) error {
	if err := s.validate(); err != nil {
		return program.Usage(err)
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	switch {
	case s.watch:
		return s.runWatch(ctx, c, out)
	case s.wait:
		return s.runWait(ctx, c, out, progress)
	}
	statuses, err := s.fetch(ctx, c, s.objects)
	if err != nil {
		return err
	}
	if err := s.write(out, statuses); err != nil {
		return err
	}
	if s.exitCode {
		return unsynced(statuses, s.commit)
	}
	return nil
}

// fetch asks for the statuses that the command is about, ordered by agent.
func (s *statusOptions) fetch(ctx context.Context, c *client, objects bool) ([]*agentStatus, error) {
	agents, err := c.agents(ctx)
	if err != nil {
		return nil, err
	}
	if s.agent != "" {
		one, err := find(agents, s.agent)
		if err != nil {
			return nil, err
		}
		agents = []*agent{one}
	}
	var statuses []*agentStatus
	for _, a := range agents {
		status, err := c.status(ctx, a, s.project, objects)
		if err != nil {
			return nil, err
		}
		statuses = append(statuses, status)
	}
	return statuses, nil
}

func (s *statusOptions) write(out io.Writer, statuses []*agentStatus) error {
	if isTable(s.output) {
		return writeStatuses(out, statuses, s.agent != "", s.objects, s.output == formatWide)
	}
	if s.agent != "" {
		return writeDocument(out, s.output, statuses[0].raw)
	}
	raws := []any{}
	for _, status := range statuses {
		raws = append(raws, status.raw)
	}
	return writeDocument(out, s.output, raws)
}

// clearScreen moves a terminal's cursor home and clears what is below.
const clearScreen = "\x1b[H\x1b[2J"

// runWatch shows the status until ctx ends. Trouble that may pass is shown as well.
func (s *statusOptions) runWatch(ctx context.Context, c *client, out io.Writer) error {
	for {
		statuses, err := s.fetch(ctx, c, s.objects)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is how watching ends
		}
		if err != nil && !errors.As(err, &passingError{}) {
			return err
		}
		if _, err := io.WriteString(out, clearScreen); err != nil {
			return err //nolint:wrapcheck // nothing to add
		}
		if err != nil {
			_, err = fmt.Fprintln(out, err)
		} else {
			err = s.write(out, statuses)
		}
		if err != nil {
			return err
		}
		if !s.pause(ctx) {
			return nil
		}
	}
}

// pause waits for the interval; false when ctx ended.
func (s *statusOptions) pause(ctx context.Context) bool {
	timer := s.clock.NewTimer(s.interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

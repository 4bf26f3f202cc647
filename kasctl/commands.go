package kasctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/internal/program"
)

// done is what has been commanded, as JSON and YAML show it.
type done struct {
	Command         string `json:"command"`
	AgentID         int64  `json:"agent_id"`
	Agent           string `json:"agent"`
	ManifestProject string `json:"manifest_project"`
	CommitID        string `json:"commit_id,omitempty"`
}

func (o *options) suspendCommand() *cobra.Command {
	return o.command("suspend AGENT [PROJECT]", "Stop syncing a manifest project until it is resumed",
		`suspend stops syncing a manifest project: no commit is applied, what others change is
not put right, and nothing is deleted, until resume; restarts do not end it. What the
cluster holds stays as it is.`, "suspend", "suspended")
}

func (o *options) resumeCommand() *cobra.Command {
	return o.command("resume AGENT [PROJECT]", "Go on syncing a manifest project that was suspended",
		`resume ends a suspension: the newest commit is applied. A project that the agent's
configuration suspends ("suspend: true") is resumed there.`, "resume", "resumed")
}

// command is one that takes an agent and a project and says that it is done.
func (o *options) command(use, short, long, verb, past string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + projectHelp,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), args, func(c *client, t *target) error {
				return o.carryOut(cmd.Context(), c, t, cmd.OutOrStdout(), verb, past, commandBody{})
			})
		},
	}
	o.addOutputFlag(cmd)
	return cmd
}

const projectHelp = `

AGENT is an agent's name, its number, or CONFIG-PROJECT:NAME where names are ambiguous.
PROJECT is a manifest project, by the id or the full path that it is configured by; it
may be left out where the agent follows one only.`

// run finds what a command is about: an agent and, unless left out, a project.
func (o *options) run(ctx context.Context, args []string, then func(*client, *target) error) error {
	if err := checkFormat(o.output); err != nil {
		return program.Usage(err)
	}
	c, err := o.client()
	if err != nil {
		return err
	}
	project := ""
	if len(args) > 1 {
		project = args[1]
	}
	t, err := c.findTarget(ctx, args[0], project)
	if err != nil {
		return err
	}
	return then(c, t)
}

// carryOut carries out a command and says so.
func (o *options) carryOut(ctx context.Context, c *client, t *target, out io.Writer, verb, past string, body commandBody) error {
	if _, err := c.command(ctx, t, verb, body); err != nil {
		return err
	}
	if isTable(o.output) {
		return writeLine(out, oneLine(fmt.Sprintf("%s: %s", t.fullName(), past)))
	}
	return writeDocument(out, o.output, done{
		Command: verb, AgentID: t.agent.ID, Agent: t.agent.fullName(), ManifestProject: t.project.GetProjectId(), CommitID: body.CommitID,
	})
}

package kasctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/program"
)

func (o *options) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor AGENT",
		Short: "Find out why an agent does not do what it should",
		Long: `doctor looks at everything between RoR and an agent's cluster: the connection and how
earlier ones ended, how long it takes to the agent and back, its clock, which replica works,
the cluster's API server, the permissions that agentk lacks, its configuration and projects.

Each line is a check: ok, warn or FAIL, what was looked at, what was found, and in brackets
what to do. An agent that is away is not waited for: then it is said since when, and why.

AGENT is an agent's name, its number, or CONFIG-PROJECT:NAME where names are ambiguous.

Exit status: 0 all is well, or there are warnings only; 1 a check fails.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(o.output); err != nil {
				return program.Usage(err)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			return o.examine(cmd.Context(), c, args[0], cmd.OutOrStdout())
		},
	}
	o.addOutputFlag(cmd)
	return cmd
}

func (o *options) examine(ctx context.Context, c *client, name string, out io.Writer) error {
	agents, err := c.agents(ctx)
	if err != nil {
		return err
	}
	a, err := find(agents, name)
	if err != nil {
		return err
	}
	raw, found, err := c.doctor(ctx, a)
	if err != nil {
		return err
	}
	if isTable(o.output) {
		err = writeChecks(out, found.GetChecks())
	} else {
		err = writeDocument(out, o.output, raw)
	}
	if err != nil {
		return err
	}
	return failedChecks(a, found.GetChecks())
}

// doctor asks RoR what is wrong with an agent. It returns the answer, and as it came.
func (c *client) doctor(ctx context.Context, a *agent) (json.RawMessage, *railsrpc.DiagnoseResponse, error) {
	raw, err := c.get(ctx, nil, "projects", strconv.FormatInt(a.ConfigProject.ID, 10), "cluster_agents", strconv.FormatInt(a.ID, 10), "doctor")
	if err != nil {
		return nil, nil, err
	}
	found := &railsrpc.DiagnoseResponse{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, found); err != nil {
		return nil, nil, fmt.Errorf("what RoR says of agent %s: %w", a.fullName(), err)
	}
	return raw, found, nil
}

// verdicts as people read them: what needs them stands out.
var verdicts = map[railsrpc.Verdict]string{
	railsrpc.Verdict_VERDICT_OK:   "ok",
	railsrpc.Verdict_VERDICT_WARN: "warn",
	railsrpc.Verdict_VERDICT_FAIL: "FAIL",
}

// writeChecks writes a line for each check.
func writeChecks(out io.Writer, checks []*railsrpc.Check) error {
	t := &table{}
	for _, check := range checks {
		found := check.GetDetail()
		if check.GetAdvice() != "" {
			found += "  (" + check.GetAdvice() + ")"
		}
		t.row(verdicts[check.GetVerdict()], check.GetName(), found)
	}
	return t.write(out)
}

// failedChecks returns an error if there are any.
func failedChecks(a *agent, checks []*railsrpc.Check) error {
	failed := 0
	for _, check := range checks {
		if check.GetVerdict() == railsrpc.Verdict_VERDICT_FAIL {
			failed++
		}
	}
	switch failed {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("agent %s: a check fails", a.fullName())
	default:
		return fmt.Errorf("agent %s: %d checks fail", a.fullName(), failed)
	}
}

package kasctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/program"
)

// The exit statuses of diff, as those of kubectl diff: 0 and 1 are answers, what is
// more is trouble.
const (
	exitDiffers    = 1
	exitDiffFailed = 2
	exitDiffFaults = 3
)

// diffError is an end of diff that is not 0.
type diffError struct {
	error
	status int
}

// ExitCode implements what program.Run asks for.
func (e *diffError) ExitCode() int { return e.status }

func (e *diffError) Unwrap() error { return e.error }

// diffOptions of the command diff.
type diffOptions struct {
	*options
	ref   commandBody
	color string
}

func (o *options) diffCommand() *cobra.Command {
	d := &diffOptions{options: o}
	cmd := &cobra.Command{
		Use:   "diff AGENT [PROJECT]",
		Short: "Tell what a commit would change in the cluster",
		Long: `diff compares a commit with the cluster, and changes nothing: the API server checks every
object that would be applied by a server-side dry run. Without --branch, --tag or --commit
it compares what the project follows. The values of Secrets are masked.

Exit status, as kubectl diff: 0 nothing would change, 1 something would, and more than 1:
2 it could not be compared, 3 files or objects of the commit are at fault.

Before a merge, in CI:

  kasctl diff production "$CI_PROJECT_PATH" --commit "$CI_COMMIT_SHA"` + projectHelp,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.run(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	o.addOutputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&d.ref.Branch, "branch", "", "compare the newest commit of this branch")
	flags.StringVar(&d.ref.Tag, "tag", "", "compare the commit of this tag")
	flags.StringVar(&d.ref.Commit, "commit", "", "compare this commit (its whole ID)")
	flags.StringVar(&d.color, "color", "auto", "auto (on a terminal), always or never")
	cmd.MarkFlagsMutuallyExclusive("branch", "tag", "commit")
	return cmd
}

func (d *diffOptions) run(ctx context.Context, out io.Writer, args []string) error {
	if d.color != "auto" && d.color != "always" && d.color != "never" {
		return program.Usage(fmt.Errorf("--color %q: want auto, always or never", d.color))
	}
	if c := d.ref.Commit; c != "" && (!isCommit(c) || len(c) != 40 && len(c) != 64) {
		return program.Usage(fmt.Errorf("--commit %q: want a whole commit ID", c))
	}
	d.ref.Commit = strings.ToLower(d.ref.Commit)
	var verdict error
	err := d.options.run(ctx, args, func(c *client, t *target) error {
		answer, err := c.command(ctx, t, "diff", d.ref)
		if err != nil {
			return err
		}
		diff, err := parseDiff(answer)
		if err != nil {
			return fmt.Errorf("diff %s: %w", t.fullName(), err)
		}
		verdict = judge(diff)
		if !isTable(d.output) {
			return writeDocument(out, d.output, json.RawMessage(answer))
		}
		return d.paint(out).write(t, diff)
	})
	if err != nil {
		return &diffError{err, exitDiffFailed}
	}
	return verdict
}

func parseDiff(answer []byte) (*railsrpc.DiffResponse, error) {
	diff := &railsrpc.DiffResponse{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(answer, diff); err != nil {
		return nil, err //nolint:wrapcheck // run does
	}
	return diff, nil
}

// judge is nil where nothing would change.
func judge(diff *railsrpc.DiffResponse) error {
	counts := make(map[syncstatus.Action]int)
	for _, d := range diff.GetDifferences() {
		counts[d.GetAction()]++
	}
	refused := counts[syncstatus.Action_ACTION_FAILED]
	changes := counts[syncstatus.Action_ACTION_CREATED] + counts[syncstatus.Action_ACTION_CONFIGURED] + counts[syncstatus.Action_ACTION_PRUNED]
	switch {
	case len(diff.GetErrors()) > 0 || refused > 0:
		return &diffError{fmt.Errorf("commit %s is at fault: %d mistake(s) in its files, %d object(s) that the API server refuses",
			short(diff.GetCommitId()), len(diff.GetErrors()), refused), exitDiffFaults}
	case changes > 0:
		return &diffError{fmt.Errorf("commit %s would change %d object(s)", short(diff.GetCommitId()), changes), exitDiffers}
	}
	return nil
}

// paint decides on colours.
func (d *diffOptions) paint(out io.Writer) *painter {
	p := &painter{out: out, wide: d.output == formatWide}
	switch d.color {
	case "always":
		p.colored = true
	case "auto":
		p.colored = isTerminal(out) && os.Getenv("NO_COLOR") == ""
	}
	return p
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

package kasctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/program"
)

var errNotApproved = errors.New(`not approved: answer "yes", or give --yes`)

func (o *options) approveCommand() *cobra.Command {
	yes := false
	cmd := &cobra.Command{
		Use:   "approve AGENT PROJECT COMMIT",
		Short: "Let the deletions of a commit go on that a guard stopped",
		Long: `approve lets the deletions of a commit go on that a guard stopped. It shows what would
be deleted and asks before it does anything.

COMMIT is the commit that status names, at least 7 digits of its ID. A commit that has
been pushed since needs an approval of its own.`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !isCommit(args[2]) {
				return program.Usage(fmt.Errorf("COMMIT %q: want 7 to 64 hexadecimal digits", args[2]))
			}
			return o.run(cmd.Context(), args[:2], func(c *client, t *target) error {
				return o.approve(cmd.Context(), c, t, args[2], yes, cmd)
			})
		},
	}
	o.addOutputFlag(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (o *options) approve(ctx context.Context, c *client, t *target, commit string, yes bool, cmd *cobra.Command) error {
	held := t.project.GetHeldPrune()
	switch {
	case held == nil:
		return fmt.Errorf("nothing waits for approval in %s: see \"kasctl status %s\"", t.fullName(), t.agent.fullName())
	case !strings.HasPrefix(held.GetCommitId(), strings.ToLower(commit)):
		return fmt.Errorf("in %s commit %s waits for approval, not %s: see what it would delete before you approve of it",
			t.fullName(), held.GetCommitId(), commit)
	}
	// What is asked goes where it does not mix with the output.
	if err := writeHeld(cmd.ErrOrStderr(), t, held); err != nil {
		return err
	}
	if !yes {
		if err := ask(cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Delete %s from the cluster? Type yes: ", objects(held.GetTotal()))); err != nil {
			return err
		}
	}
	return o.carryOut(ctx, c, t, cmd.OutOrStdout(), "approve_prune", "approved commit "+short(held.GetCommitId()), commandBody{CommitID: held.GetCommitId()})
}

// ask returns nil if the answer is yes.
func ask(in io.Reader, out io.Writer, question string) error {
	if _, err := io.WriteString(out, question); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) == "yes" {
		return nil
	}
	if err != nil { // the question's line is still open
		_ = writeLine(out, "")
	}
	return errNotApproved
}

// writeHeld says what a commit would delete.
func writeHeld(out io.Writer, t *target, held *syncstatus.HeldPrune) error {
	lines := []string{fmt.Sprintf("%s, commit %s: %s", t.fullName(), short(held.GetCommitId()), held.GetReason())}
	for _, id := range held.GetObjects() {
		lines = append(lines, "- "+kindName(id)+" "+objectName(id))
	}
	if more := int(held.GetTotal()) - len(held.GetObjects()); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	for _, line := range lines {
		if err := writeLine(out, oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}

func objects(n uint32) string {
	if n == 1 {
		return "1 object"
	}
	return count(n) + " objects"
}

// objectName is an object's name with its namespace: "web/shop".
func objectName(id *syncstatus.ObjectID) string {
	if id.GetNamespace() == "" {
		return id.GetName()
	}
	return id.GetNamespace() + "/" + id.GetName()
}

package kasctl

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/program"
	"github.com/kas-agentk/kas/internal/version"
)

// options that all commands share.
type options struct {
	url       string
	token     string
	tokenFile string
	output    string
	clock     clock.Clock
}

// Main runs kasctl as this process and returns its exit status.
func Main() int { return program.Main(NewCommand()) }

// NewCommand returns the command kasctl.
func NewCommand() *cobra.Command {
	return newCommand(clock.RealClock{})
}

func newCommand(c clock.Clock) *cobra.Command {
	o := &options{clock: c}
	cmd := &cobra.Command{
		Use:   "kasctl",
		Short: "Show agents, what they sync and what is in their clusters, and have a say in it",
		Long: `kasctl shows agents and the status of what they sync, has them sync, stop and go on, tells
what a commit would change in a cluster, and shows what is in it.

It asks RoR, whose address and token come from --url and --token-file, or from the
environment: ROR_URL and ROR_TOKEN.

Exit status: 0 done, 1 failed, 2 called wrongly, 3 not synced (--exit-code, --wait). That
of diff is its own.`,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.url, "url", "", "address of RoR (environment: ROR_URL)")
	flags.StringVar(&o.token, "token", "", "personal access token; others on this machine can see it: prefer --token-file or ROR_TOKEN")
	flags.StringVar(&o.tokenFile, "token-file", "", "file that holds the personal access token")
	cmd.AddCommand(o.agentsCommand(), o.statusCommand(), o.getCommand(), o.syncCommand(), o.suspendCommand(), o.resumeCommand(),
		o.approveCommand(), o.diffCommand(), o.kubeconfigCommand(), o.doctorCommand(), versionCommand())
	return cmd
}

// client from flags and environment.
func (o *options) client() (*client, error) {
	base := o.url
	if base == "" {
		base = os.Getenv("ROR_URL")
	}
	token := o.token
	if token == "" && o.tokenFile != "" {
		data, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return nil, program.Usage(fmt.Errorf("--token-file: %w", err))
		}
		if token = strings.TrimSpace(string(data)); token == "" {
			return nil, program.Usage(fmt.Errorf("--token-file: %s is empty", o.tokenFile))
		}
	}
	if token == "" {
		token = os.Getenv("ROR_TOKEN")
	}
	c, err := newClient(base, token)
	if err != nil {
		return nil, program.Usage(err)
	}
	return c, nil
}

func (o *options) addOutputFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.output, "output", "o", formatTable, "table, wide, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

func (o *options) agentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agents",
		Short: "List the agents, and whether they are connected",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(o.output); err != nil {
				return program.Usage(err)
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			agents, err := c.agents(cmd.Context())
			if err != nil {
				return err
			}
			if !isTable(o.output) {
				raws := []json.RawMessage{}
				for _, a := range agents {
					raws = append(raws, a.raw)
				}
				return writeDocument(cmd.OutOrStdout(), o.output, raws)
			}
			return writeAgents(cmd.OutOrStdout(), agents)
		},
	}
	o.addOutputFlag(cmd)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "kasctl version %s\n", version.String())
			return err //nolint:wrapcheck // nothing to add
		},
	}
}

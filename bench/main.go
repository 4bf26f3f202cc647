// Command bench measures the sync engine beside other engines and beside the limit
// of the API server, all on one API server in one run, and writes results.json and
// results.md. docs/benchmarks.md says what is measured and how.
//
// It starts the control plane, runs each contender in a process of its own (this
// program again, see contender), and measures the program agentk with many objects
// (scale).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kas-agentk/kas/bench/contender"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Compare the sync engine with others and with the API server's limit",
		Args:  cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.ErrOrStderr(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.quick, "quick", false, "small sets, measured once: to see that everything works")
	flags.IntVar(&o.repeats, "repeats", 3, "how often everything is measured")
	flags.StringSliceVar(&o.contenders, "contenders", contender.Names(), "who takes part")
	flags.StringSliceVar(&o.cases, "cases", nil, "which cases (default: all), by name; agentk: the program")
	flags.StringVar(&o.agentk, "agentk", "", "path of the program agentk; empty: it is not measured")
	flags.StringVar(&o.out, "out", ".", "directory for results.json and results.md; empty: they are not written")
	flags.StringVar(&o.profileDir, "profile-dir", "", "existing directory for CPU and heap profiles of ours, and of agentk's heap (profiling costs time, too)")
	flags.DurationVar(&o.settle, "settle", 150*time.Second, "how long agentk is left alone before it counts as idle")
	cmd.AddCommand(newContenderCommand())
	return cmd
}

// newContenderCommand is what contender.Start starts.
func newContenderCommand() *cobra.Command {
	var spec contender.Spec
	cmd := &cobra.Command{
		Use: "contender", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return contender.Serve(cmd.Context(), spec, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "which contender")
	flags.StringVar(&spec.Kubeconfig, "kubeconfig", "", "of the API server")
	flags.StringVar(&spec.UserAgent, "user-agent", "", "that its requests carry")
	flags.StringVar(&spec.Namespace, "namespace", "", "for inventories")
	flags.StringVar(&spec.ProfileDir, "profile-dir", "", "for profiles")
	return cmd
}

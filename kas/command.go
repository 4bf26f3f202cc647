package kas

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/program"
	"github.com/kas-agentk/kas/internal/version"
	"github.com/kas-agentk/kas/manifests/render"
)

// Main runs kas as a process and returns its exit status.
func Main() int { return program.Main(newCommand(render.Command(renderCommand))) }

// NewCommand returns the command kas, for a process that has more to do. It renders in
// that process.
func NewCommand() *cobra.Command { return newCommand(nil) }

func newCommand(renderer func(context.Context) *exec.Cmd) *cobra.Command {
	var configurationFile string
	options := logging.DefaultOptions()
	cmd := &cobra.Command{
		Use:   "kas --configuration-file=FILE",
		Short: "Server of the GitOps sync engine: brings Git repositories to agents in clusters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := LoadConfiguration(configurationFile)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("log-level") {
				options.Level = cfg.GetObservability().GetLogging().GetLevel()
			}
			log, _, err := options.New()
			if err != nil {
				return program.Usage(err)
			}
			defer func() { _ = log.Sync() }() // standard error often cannot be synced
			if renderer != nil {              // this process is kas alone
				undo, err := zap.RedirectStdLogAt(log.Named("library"), zap.DebugLevel)
				if err != nil {
					return fmt.Errorf("take over what libraries log: %w", err)
				}
				defer undo()
				stop := keepMemory(cmd.Context())
				defer stop()
			}
			log.Info("kas starts", zap.String("version", version.String()))
			if err := Run(cmd.Context(), Options{Configuration: cfg, Log: log, Renderer: renderer}); err != nil {
				return locate(configurationFile, err)
			}
			log.Info("kas has ended")
			return nil
		},
	}
	cmd.Flags().StringVar(&configurationFile, "configuration-file", "", "YAML file with the configuration; docs/kas-configuration-example.yaml explains every key")
	_ = cmd.MarkFlagRequired("configuration-file") // the flag is there
	options.AddFlags(cmd.Flags())
	cmd.Flags().Lookup("log-level").Usage += " (default: observability.logging.level of the configuration)"
	cmd.AddCommand(&cobra.Command{
		Use:    renderCommand,
		Short:  "Render a kustomization or chart for the kas that starts this",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return render.Serve(os.Stdin, os.Stdout, func() { os.Exit(program.ExitFailed) })
		},
	})
	return cmd
}

// renderCommand is how kas starts itself to render.
const renderCommand = "render"

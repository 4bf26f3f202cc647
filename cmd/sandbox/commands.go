package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/demo"
	"github.com/kas-agentk/kas/sandbox/process"
)

// parentEvery is how often --end-with-parent looks for the parent.
const parentEvery = 500 * time.Millisecond

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a Kubernetes control plane and Gitaly on this machine, and the demo on top of them",
		Args:  cobra.NoArgs,
	}
	var cache string
	cmd.PersistentFlags().StringVar(&cache, "cache-dir", "", "folder of the built programs (default $"+sandbox.CacheEnv+", else one in the user's cache folder)")
	cmd.AddCommand(buildCommand(&cache), upCommand(&cache), demoCommand(&cache), cleanCommand())
	return cmd
}

func buildCommand(cache *string) *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build the control plane and Gitaly, once; later starts use them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := sandbox.Build(cmd.Context(), sandbox.BuildConfig{CacheDir: *cache, Progress: cmd.OutOrStdout()})
			return err
		},
	}
}

func upCommand(cache *string) *cobra.Command {
	var dir, gitlab string
	var nodes int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a control plane and Gitaly until Ctrl-C, and print where they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return up(cmd.Context(), cmd.OutOrStdout(),
				sandbox.ControlPlaneConfig{Dir: below(dir, "cluster"), Nodes: nodes, CacheDir: *cache, Progress: cmd.ErrOrStderr()},
				sandbox.GitalyConfig{Dir: below(dir, "gitaly"), GitLabURL: gitlab, CacheDir: *cache, Progress: cmd.ErrOrStderr()})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder that keeps all state (default: a temporary one)")
	cmd.Flags().StringVar(&gitlab, "gitlab-url", "", "RoR, whom Gitaly's hooks ask about each push (default: nobody, pushes are refused)")
	cmd.Flags().IntVar(&nodes, "nodes", 1, "how many fake nodes")
	return cmd
}

// below is a folder in dir, or empty where dir is.
func below(dir, name string) string {
	if dir == "" {
		return ""
	}
	return dir + string(os.PathSeparator) + name
}

// up runs both until ctx ends, which is no error, or a part dies.
func up(ctx context.Context, out io.Writer, clusterCfg sandbox.ControlPlaneConfig, gitalyCfg sandbox.GitalyConfig) error {
	cluster, err := sandbox.StartControlPlane(ctx, clusterCfg)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	gitaly, err := sandbox.StartGitaly(ctx, gitalyCfg)
	if err != nil {
		return errors.Join(unlessEnded(ctx, err), cluster.Stop())
	}
	_, _ = fmt.Fprintf(out, "KUBECONFIG=%s\nKUBECTL=%s\nGITALY_ADDRESS=%s\nGITALY_TOKEN_FILE=%s\nGITLAB_SHELL_SECRET_FILE=%s\n",
		cluster.Kubeconfig, cluster.Kubectl, gitaly.Address, gitaly.TokenFile, gitaly.SecretFile)
	err = process.Watch(ctx, append(cluster.Processes(), gitaly.Process)...)
	return errors.Join(unlessEnded(ctx, err), gitaly.Stop(), cluster.Stop())
}

// unlessEnded is err, unless it came of ctx's end.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // being told to end is no failure
	}
	return err
}

func demoCommand(cache *string) *cobra.Command {
	cfg := demo.Config{}
	var withParent bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Set up everything, run the main job, and go on until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.CacheDir, cfg.Out = *cache, cmd.OutOrStdout()
			if withParent {
				return untilOrphaned(cmd.Context(), func(ctx context.Context) error { return demo.Run(ctx, cfg) })
			}
			return demo.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "folder that keeps all state (default .demo in the checkout)")
	cmd.Flags().StringVar(&cfg.Kubeconfig, "kubeconfig", "", "use this cluster instead of a control plane of its own")
	cmd.Flags().StringVar(&cfg.TracingEndpoint, "tracing-otlp-endpoint", "", "URL of an OTLP/HTTP collector for the traces of all programs, such as http://127.0.0.1:4318/v1/traces (default none)")
	cmd.Flags().BoolVar(&withParent, "end-with-parent", false, "end, in good order, when the process that started this one has ended")
	return cmd
}

func cleanCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "demo-clean",
		Short: "Remove the demo's state",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return demo.Clean(cmd.Context(), dir) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder that keeps all state (default .demo in the checkout)")
	return cmd
}

// untilOrphaned runs a function until it returns; its context ends when the parent
// of this process does. "go run" and make do not pass every signal on.
func untilOrphaned(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	group, groupCtx := errgroup.WithContext(ctx)
	parent := os.Getppid()
	group.Go(func() error {
		tick := time.NewTicker(parentEvery)
		defer tick.Stop()
		for os.Getppid() == parent {
			select {
			case <-tick.C:
			case <-groupCtx.Done():
				return nil
			}
		}
		cancel()
		return nil
	})
	group.Go(func() error {
		defer cancel()
		return run(groupCtx)
	})
	return group.Wait()
}

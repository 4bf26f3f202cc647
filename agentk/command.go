package agentk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/kas-agentk/kas/internal/admin"
	"github.com/kas-agentk/kas/internal/logging"
	"github.com/kas-agentk/kas/internal/program"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/internal/version"
)

// options are the command line.
type options struct {
	kasAddress    string
	tokenFile     string
	caCertFile    string
	stateDir      string
	observability string
	logging       logging.Options
	tracing       tracing.Options
	kube          *genericclioptions.ConfigFlags
	// capture has what libraries log appear in the agent's log.
	capture func(*logLevels)
}

// Main runs agentk as this process and returns its exit status.
func Main() int { return program.Main(newCommand(captureLogs)) }

// NewCommand returns the command agentk, for a process that has more to do.
func NewCommand() *cobra.Command { return newCommand(func(*logLevels) {}) }

func newCommand(capture func(*logLevels)) *cobra.Command {
	o := &options{logging: logging.DefaultOptions(), kube: genericclioptions.NewConfigFlags(true), capture: capture}
	o.kube.CacheDir = nil // nothing is cached on disk
	cmd := &cobra.Command{
		Use:   "agentk --kas-address=grpcs://HOST:PORT --token-file=FILE",
		Short: "Make this cluster hold what the manifest projects of its agent say",
		Long: `agentk runs in a cluster, dials kas and keeps the connection open. It makes the
cluster hold what kas sends from the manifest projects of the agent's configuration,
and reports how that goes. It needs no port that others can reach.

Several replicas may run: one of them works, the others stand by.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.kasAddress, "kas-address", "", "where kas listens for agents: grpcs://HOST:PORT (TLS) or grpc://HOST:PORT (plaintext), or by WebSocket wss://HOST[:PORT]/PATH or ws://HOST[:PORT]/PATH")
	flags.StringVar(&o.tokenFile, "token-file", "", "file that holds the agent's token; it may be replaced while agentk runs")
	flags.StringVar(&o.caCertFile, "ca-cert-file", "", "file with PEM certificates to trust, beside the system's, when connecting to kas")
	flags.StringVar(&o.stateDir, "state-dir", "", "directory of this process's own, in which it keeps its identity and what kas said last, to heal the cluster also when started while kas is away; it holds Secrets of the repositories")
	flags.StringVar(&o.observability, "observability-listen-address", "127.0.0.1:8152",
		"where to serve /metrics, /liveness, /readiness and /debug/pprof; empty: nowhere")
	o.logging.AddFlags(flags)
	o.tracing.AddFlags(flags)
	o.kube.AddFlags(flags)
	return cmd
}

var (
	errNoAddress   = errors.New("--kas-address is not set")
	errNoTokenFile = errors.New("--token-file is not set")
)

func (o *options) validate() error {
	if o.kasAddress == "" {
		return fmt.Errorf("%w: %w", errNoAddress, errAddress)
	}
	if o.tokenFile == "" {
		return errNoTokenFile
	}
	address, err := parseAddress(o.kasAddress)
	if err != nil {
		return err
	}
	_, err = tlsConfig(address, o.caCertFile)
	return err
}

func (o *options) run(ctx context.Context) (err error) {
	if err := o.validate(); err != nil {
		return program.Usage(err)
	}
	log, level, err := o.logging.New()
	if err != nil {
		return program.Usage(err)
	}
	tuneMemory()
	levels := newLogLevels(log, level)
	o.capture(levels)
	dir, err := openStateDir(o.stateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	podName := os.Getenv("POD_NAME")
	id, err := identity(podName, dir)
	if err != nil {
		return err
	}
	namespace, err := o.namespace()
	if err != nil {
		return err
	}
	cfg := Config{
		KASAddress:   o.kasAddress,
		CACertFile:   o.caCertFile,
		TokenFile:    o.tokenFile,
		PodName:      podName,
		PodNamespace: os.Getenv("POD_NAMESPACE"),
		ApplyLogging: levels.apply,
		Registry:     admin.NewRegistry(),
		Log:          log,
	}
	var flush func()
	if cfg.Tracing, flush, err = o.tracing.Start(ctx, "agentk", cfg.Registry, log); err != nil {
		return err
	}
	defer flush()
	k, err := newKubernetes(o.kube, namespace, id, &cfg)
	if err != nil {
		return err
	}
	cfg.StateDir = dir.desired()
	cfg.KubernetesVersion, cfg.Controls = k.version, k.controls
	cfg.Services = append(cfg.Services, k.state.register, k.register)
	cfg.ApplyClusterState, cfg.ApplyKubernetesAPI = k.state.configure, k.api.Configure
	cfg.Examiner = k.examiner
	if cfg.Observability, err = listen(ctx, o.observability); err != nil {
		return err
	}
	a, err := New(cfg, k.engine, k.elector)
	if err != nil {
		return err
	}
	log.Info("Starting", zap.String("version", version.String()), zap.String("kas", o.kasAddress),
		zap.String("namespace", namespace), zap.String("identity", id), zap.Stringer("observability", address(cfg.Observability)))
	err = runOver(ctx, k.Run, a.Run)
	log.Info("Ended", zap.Error(err))
	return err
}

// namespace is agentk's own, for its lease and its inventories: --namespace, the
// pod's, or that of the kubeconfig's context.
func (o *options) namespace() (string, error) {
	if *o.kube.Namespace != "" {
		return *o.kube.Namespace, nil
	}
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns, nil
	}
	ns, _, err := o.kube.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("kubeconfig: %w", err)
	}
	return ns, nil
}

// runOver runs top, and base for as long as top runs. If base fails, top ends.
func runOver(ctx context.Context, base, top func(context.Context) error) error {
	baseCtx, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := base(baseCtx); err != nil {
			return fmt.Errorf("kubernetes: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		defer stopBase()
		return top(ctx)
	})
	return g.Wait()
}

// listen listens on address; nil for the empty address.
func listen(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil //nolint:nilnil // nowhere is a good place
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--observability-listen-address: %w", err)
	}
	return l, nil
}

// address of a listener that may be nil.
func address(l net.Listener) fmt.Stringer {
	if l == nil {
		return &net.TCPAddr{}
	}
	return l.Addr()
}

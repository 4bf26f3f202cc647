package harness

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/process"
	"github.com/kas-agentk/kas/sandbox/stack"
)

const (
	// startTimeout bounds the start of an Env, programs built already.
	startTimeout = 15 * time.Minute
	// pollPeriod of kas: short, so that tests do not wait for it.
	pollPeriod = 200 * time.Millisecond
	// PollPeriodEnv names the variable that overrides it.
	PollPeriodEnv = "E2E_POLL_PERIOD"
	// RaceEnv names the variable that, set to "0", leaves the race detector out of the programs: for
	// benchmarks.
	RaceEnv = "E2E_RACE"
	// LogLevelEnv names the variable that overrides the programs' log level, which is debug:
	// for benchmarks as well.
	LogLevelEnv = "E2E_LOG_LEVEL"
	// sideBySide is how many parallel tests run at a time, unless -parallel says otherwise:
	// they mostly wait.
	sideBySide = 5
	// infoCacheTTL of kas: how long a revoked token may go on.
	infoCacheTTL = 2 * time.Second
	// KeepEnv names the variable that, when set, keeps an Env's directory, with all logs.
	KeepEnv = "E2E_KEEP"
)

// Env is the whole system without agents.
type Env struct {
	Dir      string
	Cluster  *Cluster
	Gitaly   *sandbox.Gitaly
	Stack    *stack.Stack
	Programs stack.Programs

	// Kube and Dynamic are clients of the cluster, without rate limits.
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface

	guards *guards
}

// Main runs a package's tests in an Env, for TestMain: env is set before the tests
// run. It returns the exit code.
func Main(m *testing.M, env **Env) int {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	e, err := Start(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	*env = e
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := flag.Set(parallel.Name, strconv.Itoa(sideBySide)); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
	code := m.Run()
	if err := e.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	return code
}

// Start starts everything. On an error nothing is left running.
func Start(ctx context.Context, progress io.Writer) (*Env, error) {
	dir, err := os.MkdirTemp("", "kas-e2e-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	e := &Env{Dir: dir, guards: newGuards()}
	if err := e.start(ctx, progress); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

func (e *Env) start(ctx context.Context, progress io.Writer) error {
	var err error
	if e.Programs, err = buildPrograms(ctx, filepath.Join(e.Dir, "bin"), os.Getenv(RaceEnv) != "0"); err != nil {
		return err
	}
	period := pollPeriod
	if text := os.Getenv(PollPeriodEnv); text != "" {
		if period, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%s: %w", PollPeriodEnv, err)
		}
	}
	e.Stack, err = stack.New(stack.Config{
		Dir: filepath.Join(e.Dir, "stack"), Programs: e.Programs,
		PollPeriod: period, InfoCacheTTL: infoCacheTTL, LogLevel: logLevel(),
	})
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		var err error
		if e.Cluster, err = startCluster(groupCtx, e.Dir, progress); err != nil {
			return err
		}
		if err := e.connect(); err != nil {
			return fmt.Errorf("connect to the cluster: %w", err)
		}
		return nil
	})
	group.Go(func() error { return e.startStack(groupCtx, progress) })
	if err := group.Wait(); err != nil {
		return err
	}
	e.guards.watch(e.parts()...)
	return nil
}

// logLevel of all programs.
func logLevel() string { return cmp.Or(os.Getenv(LogLevelEnv), "debug") }

// startStack starts Gitaly, ror and kas.
func (e *Env) startStack(ctx context.Context, progress io.Writer) error {
	var err error
	e.Gitaly, err = sandbox.StartGitaly(ctx, sandbox.GitalyConfig{
		Dir: filepath.Join(e.Dir, "gitaly"), GitLabURL: e.Stack.RorURL,
		SecretFile: e.Stack.ShellSecretFile, Progress: progress,
	})
	if err != nil {
		return fmt.Errorf("start Gitaly: %w", err)
	}
	e.Stack.SetGitaly(e.Gitaly.Address, e.Gitaly.TokenFile)
	for _, p := range []*process.Process{e.Stack.Ror, e.Stack.Kas} {
		if err := p.Start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", p.Name(), err)
		}
	}
	return nil
}

func (e *Env) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", e.Cluster.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS = -1
	if e.Kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	if e.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return nil
}

// Stop stops everything and removes the directory, unless $E2E_KEEP is set. It
// reports programs that died unasked or found a data race.
func (e *Env) Stop() error {
	errs := []error{e.guards.close()}
	var group errgroup.Group
	if e.Cluster != nil {
		group.Go(e.Cluster.Stop)
	}
	if e.Stack != nil {
		errs = append(errs, e.Stack.Stop())
	}
	if e.Gitaly != nil {
		errs = append(errs, e.Gitaly.Stop())
	}
	errs = append(errs, group.Wait(), dataRaces(e.Dir))
	if os.Getenv(KeepEnv) != "" {
		fmt.Fprintln(os.Stderr, "e2e: logs are kept in", e.Dir)
	} else {
		errs = append(errs, os.RemoveAll(e.Dir))
	}
	return errors.Join(errs...)
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/filelock"
	"github.com/kas-agentk/kas/sandbox/process"
	"github.com/kas-agentk/kas/sandbox/stack"
)

// Config is what to run.
type Config struct {
	// Dir keeps all state. Default: ".demo" in the checkout.
	Dir string
	// Kubeconfig of a cluster to use in place of the sandbox's control plane.
	Kubeconfig string
	// BinDir is where kas, agentk, ror and kasctl are built. Default: "bin" in the
	// checkout.
	BinDir string
	// TracingEndpoint is the URL of an OTLP/HTTP collector. Empty: nothing is traced.
	TracingEndpoint string
	// CacheDir is that of sandbox.BuildConfig.
	CacheDir string
	// Out gets lines for people.
	Out io.Writer
}

// demo is one run.
type demo struct {
	cfg    Config
	source string // root of the checkout
	began  time.Time

	programs stack.Programs
	cluster  cluster
	gitaly   *sandbox.Gitaly
	stack    *stack.Stack
	agentk   *stack.Agentk
	sample   sample

	// stops ends what was started, to be called from the last to the first;
	// processes is who must not end before.
	stops     []func() error
	processes []*process.Process
}

// Run sets up what is missing, starts everything, and returns when ctx ends, which
// is no error, or when one of the processes dies, which is.
func Run(ctx context.Context, cfg Config) error {
	source, err := sandbox.Source(ctx)
	if err != nil {
		return err
	}
	if cfg.Dir, err = directory(cfg.Dir, source); err != nil {
		return err
	}
	if cfg.BinDir == "" {
		cfg.BinDir = filepath.Join(source, "bin")
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	d := &demo{cfg: cfg, source: source, began: time.Now()}
	err = d.run(ctx)
	if ctx.Err() != nil {
		d.say("ending")
		err = nil // whatever it was, it came of being told to end
	}
	return errors.Join(err, d.stop())
}

// Clean removes a demo's directory, unless the demo runs.
func Clean(ctx context.Context, dir string) error {
	source, err := sandbox.Source(ctx)
	if err != nil {
		return err
	}
	if dir, err = directory(dir, source); err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the demo's state: %w", err)
	}
	return nil
}

func directory(dir, source string) (string, error) {
	if dir == "" {
		return filepath.Join(source, ".demo"), nil
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the demo's folder: %w", err)
	}
	return absolute, nil
}

func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	unlock, err = filelock.Try(filepath.Join(dir, "lock"))
	var taken *filelock.TakenError
	if errors.As(err, &taken) {
		return nil, fmt.Errorf("the demo is running already, as process %d: use it (%s tells where it is), or end it first", taken.PID, filepath.Join(dir, "env"))
	}
	return unlock, err
}

func (d *demo) run(ctx context.Context) error {
	if err := os.RemoveAll(d.path("env")); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := check(ctx, d.cfg); err != nil {
		return err
	}
	if err := d.build(ctx); err != nil {
		return err
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	// From here on, the death of a part ends the run, whatever it is waiting for.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return process.Watch(ctx, d.processes...) })
	group.Go(func() error {
		if err := d.setUp(ctx); err != nil {
			return err
		}
		group.Go(func() error { return process.Watch(ctx, d.agentk.Process) })
		return d.show(ctx)
	})
	return group.Wait()
}

// show waits until the sample is in step, tells of it, and waits for the end.
func (d *demo) show(ctx context.Context) error {
	if err := d.waitSynced(ctx); err != nil {
		return err
	}
	if err := d.writeEnv(); err != nil {
		return err
	}
	d.showWhatToTry()
	<-ctx.Done()
	return ctx.Err()
}

// build builds what runs: ours always, which is quick when nothing changed.
func (d *demo) build(ctx context.Context) error {
	err := d.during(ctx, "building kas, agentk, ror and kasctl (2 to 4 minutes the first time)", func(ctx context.Context) error {
		var err error
		d.programs, err = stack.BuildPrograms(ctx, d.cfg.BinDir, false)
		return err
	})
	if err != nil {
		return err
	}
	_, err = sandbox.Build(ctx, sandbox.BuildConfig{Parts: parts(d.cfg), CacheDir: d.cfg.CacheDir, Progress: d.cfg.Out})
	return err
}

// parts is what the demo needs of the sandbox.
func parts(cfg Config) []sandbox.Part {
	switch {
	case cfg.Kubeconfig == "":
		return sandbox.AllParts()
	case ownKubectl() == "":
		return []sandbox.Part{sandbox.PartKubernetes, sandbox.PartGitaly} // for its kubectl
	default:
		return []sandbox.Part{sandbox.PartGitaly}
	}
}

// start starts the cluster, Gitaly, ror and kas.
func (d *demo) start(ctx context.Context) error {
	var err error
	d.stack, err = stack.New(stack.Config{Dir: d.path("stack"), Programs: d.programs, TracingEndpoint: d.cfg.TracingEndpoint})
	if err != nil {
		return err
	}
	d.onStop(d.stack.Stop)
	d.say("starting the cluster and Gitaly")
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		var err error
		d.cluster, err = startCluster(groupCtx, d.cfg, d.path("cluster"))
		return err
	})
	group.Go(func() error {
		var err error
		d.gitaly, err = sandbox.StartGitaly(groupCtx, sandbox.GitalyConfig{
			Dir: d.path("gitaly"), GitLabURL: d.stack.RorURL, SecretFile: d.stack.ShellSecretFile,
			HushGit: true, CacheDir: d.cfg.CacheDir, Progress: d.cfg.Out,
		})
		return err
	})
	err = group.Wait()
	if d.cluster.stop != nil {
		d.onStop(d.cluster.stop)
		d.processes = append(d.processes, d.cluster.processes...)
	}
	if d.gitaly != nil {
		d.onStop(d.gitaly.Stop)
		d.processes = append(d.processes, d.gitaly.Process)
	}
	if err != nil {
		return err
	}
	d.say("starting ror and kas")
	d.stack.SetGitaly(d.gitaly.Address, d.gitaly.TokenFile)
	for _, p := range []*process.Process{d.stack.Ror, d.stack.Kas} {
		d.onStop(p.Stop)
		d.processes = append(d.processes, p)
		if err := p.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// onStop has a function called at the end, before those that came earlier.
func (d *demo) onStop(stop func() error) { d.stops = append(d.stops, stop) }

// stop ends everything.
func (d *demo) stop() error {
	errs := []error{os.RemoveAll(d.path("env"))}
	for _, stop := range slices.Backward(d.stops) {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}

func (d *demo) path(name string) string { return filepath.Join(d.cfg.Dir, name) }

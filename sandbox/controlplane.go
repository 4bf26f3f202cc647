package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/kas-agentk/kas/sandbox/ports"
	"github.com/kas-agentk/kas/sandbox/process"
)

// ControlPlaneConfig is what to start. The zero value is a whole control plane with
// one node in a temporary directory.
type ControlPlaneConfig struct {
	// Dir keeps everything: data, logs, certificates, kubeconfig. A second start in
	// the same directory goes on where the first ended, on the same ports where they
	// are free. Default: a temporary one, which Stop removes.
	Dir string
	// Nodes is how many fake nodes there are. Default one.
	Nodes int
	// WithoutNodes leaves out nodes, kwok and the scheduler: pods stay Pending.
	WithoutNodes bool
	// WithoutControllers leaves out the controller-manager: no Deployment makes pods,
	// no namespace is ever gone, nothing is garbage-collected. Together with
	// WithoutNodes it is the fastest API server.
	WithoutControllers bool
	// LivePods is how many pods do more than to be there, see LivePod. Default: none.
	LivePods int
	// Fsync makes etcd write through to the disk. Without it data survive kill -9 of
	// every part, but not a crash of the machine.
	Fsync bool
	// APIServerArgs and ControllerManagerArgs are added to what each is started with.
	APIServerArgs, ControllerManagerArgs []string
	// CacheDir and Progress are those of BuildConfig.
	CacheDir string
	Progress io.Writer
}

// ControlPlane is a running Kubernetes control plane. Each part may be stopped,
// killed and started again; parts that were left out are nil.
type ControlPlane struct {
	// Dir is where everything is kept, logs in its folder "logs".
	Dir string
	// Host is the URL of the API server, CAFile the certificate to trust, and Token a
	// bearer token that may do everything (system:masters). They are what a
	// rest.Config takes.
	Host   string
	CAFile string
	Token  string
	// Kubeconfig is a file with the three.
	Kubeconfig string
	// Kubectl is a kubectl of the API server's version.
	Kubectl string
	// LivePods are as many as were asked for; the pods themselves are for whoever wants one
	// to make.
	LivePods []LivePod

	Etcd              *process.Process
	APIServer         *process.Process
	ControllerManager *process.Process
	Scheduler         *process.Process
	Kwok              *process.Process

	cfg      ControlPlaneConfig
	programs Programs
	pki      pki
	ports    *ports.Set
	admin    *adminClient
	// kubeletPort is where kwok answers for all nodes.
	kubeletPort int
}

// StartControlPlane builds what is missing, starts a control plane and returns when
// it serves and its nodes are ready. On an error nothing is left running. ctx
// bounds the start only.
func StartControlPlane(ctx context.Context, cfg ControlPlaneConfig) (*ControlPlane, error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 1
	}
	parts := []Part{PartKubernetes}
	if !cfg.WithoutNodes {
		parts = append(parts, PartKwok)
	}
	programs, err := Build(ctx, BuildConfig{Parts: parts, CacheDir: cfg.CacheDir, Progress: cfg.Progress})
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{cfg: cfg, programs: programs, Kubectl: programs.Kubectl}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("start control plane: %w", errors.Join(err, c.Stop()))
	}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("start control plane: %w", errors.Join(err, c.Stop()))
	}
	return c, nil
}

// prepare writes everything that the parts read.
func (c *ControlPlane) prepare() error {
	var err error
	if c.Dir, err = instanceDir(c.cfg.Dir, "controlplane"); err != nil {
		return err
	}
	if c.pki, err = ensurePKI(filepath.Join(c.Dir, "pki")); err != nil {
		return err
	}
	if c.ports, err = ports.Open(filepath.Join(c.Dir, "ports.json")); err != nil {
		return err
	}
	return c.declare()
}

func (c *ControlPlane) start(ctx context.Context) error {
	if err := c.Etcd.Start(ctx); err != nil {
		return err
	}
	if err := c.APIServer.Start(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if c.ControllerManager != nil {
		group.Go(func() error { return c.ControllerManager.Start(ctx) })
	}
	if !c.cfg.WithoutNodes {
		group.Go(func() error { return c.Scheduler.Start(ctx) })
		group.Go(func() error {
			if err := c.admin.createNodes(ctx, c.cfg.Nodes, c.kubeletPort); err != nil {
				return err
			}
			return c.Kwok.Start(ctx)
		})
	}
	return group.Wait()
}

// Processes is every part that was not left out, in the order of their start.
func (c *ControlPlane) Processes() []*process.Process {
	var all []*process.Process
	for _, p := range []*process.Process{c.Etcd, c.APIServer, c.ControllerManager, c.Scheduler, c.Kwok} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// WriteKubeconfig writes a kubeconfig for this API server with a bearer token and
// a default namespace ("" is "default").
func (c *ControlPlane) WriteKubeconfig(path, token, namespace string) error {
	return writeKubeconfig(path, c.Host, c.pki.ca, token, namespace)
}

// Stop ends all parts, in the reverse order of their start, and removes the
// directory where it was a temporary one. It may be called at any time, and twice.
func (c *ControlPlane) Stop() error {
	var group errgroup.Group
	for _, p := range []*process.Process{c.Kwok, c.Scheduler, c.ControllerManager} {
		if p != nil {
			group.Go(p.Stop)
		}
	}
	errs := []error{group.Wait()}
	for _, p := range []*process.Process{c.APIServer, c.Etcd} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	if c.ports != nil {
		errs = append(errs, c.ports.Close())
	}
	if c.cfg.Dir == "" && c.Dir != "" {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	return errors.Join(errs...)
}

// instanceDir is the directory of an instance: the one asked for or a temporary one.
func instanceDir(dir, what string) (string, error) {
	if dir == "" {
		temp, err := os.MkdirTemp("", "kas-sandbox-"+what+"-")
		if err != nil {
			return "", fmt.Errorf("make a directory: %w", err)
		}
		return temp, nil
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find directory %s: %w", dir, err)
	}
	if err := os.MkdirAll(absolute, 0o700); err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	return absolute, nil
}

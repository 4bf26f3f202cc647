package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/kas-agentk/kas/sandbox"
)

// ClusterEnv names the variable that chooses the cluster: "sandbox" (default), or
// "kubeconfig" for the cluster that $KUBECONFIG names.
const ClusterEnv = "E2E_CLUSTER"

// ErrNoControlPlane is returned to tests that want to kill parts of a cluster that
// is not ours.
var ErrNoControlPlane = errors.New("the cluster is not a sandbox: its parts cannot be stopped")

const (
	// CommandTimeout bounds a command that a test runs, so that one that hangs is an
	// error.
	CommandTimeout = time.Minute
	// AnswerTimeout bounds a request likewise.
	AnswerTimeout = time.Minute
)

// Cluster is where agents apply.
type Cluster struct {
	// Kubeconfig is a file.
	Kubeconfig string
	// Kubectl is a kubectl that fits.
	Kubectl string
	// ControlPlane is nil where the cluster is not ours.
	ControlPlane *sandbox.ControlPlane

	// live pods that are free. nil where the cluster is not ours.
	live chan sandbox.LivePod
}

// startCluster starts or finds the cluster that $E2E_CLUSTER chooses.
func startCluster(ctx context.Context, dir string, progress io.Writer) (*Cluster, error) {
	switch kind := os.Getenv(ClusterEnv); kind {
	case "", "sandbox":
		c, err := sandbox.StartControlPlane(ctx, sandbox.ControlPlaneConfig{
			Dir: filepath.Join(dir, "controlplane"), Nodes: 2, LivePods: livePods, Progress: progress,
		})
		if err != nil {
			return nil, fmt.Errorf("start the cluster: %w", err)
		}
		live := make(chan sandbox.LivePod, livePods)
		for _, pod := range c.LivePods {
			live <- pod
		}
		return &Cluster{Kubeconfig: c.Kubeconfig, Kubectl: c.Kubectl, ControlPlane: c, live: live}, nil
	case "kubeconfig":
		path := os.Getenv("KUBECONFIG")
		if path == "" {
			return nil, fmt.Errorf("%s=kubeconfig wants KUBECONFIG to name a file", ClusterEnv)
		}
		return &Cluster{Kubeconfig: path, Kubectl: "kubectl"}, nil
	default:
		return nil, fmt.Errorf("%s=%s: unknown cluster, want sandbox or kubeconfig", ClusterEnv, kind)
	}
}

// Stop stops the cluster if it is ours.
func (c *Cluster) Stop() error {
	if c.ControlPlane == nil {
		return nil
	}
	if err := c.ControlPlane.Stop(); err != nil {
		return fmt.Errorf("stop the cluster: %w", err)
	}
	return nil
}

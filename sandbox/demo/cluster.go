package demo

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/process"
)

// agentNamespace is where agentk keeps its own objects: inventories and leases.
const agentNamespace = "gitlab-agent"

// cluster is where the sample is deployed to.
type cluster struct {
	kubeconfig string
	kubectl    string
	// stop and processes are those of the sandbox's control plane.
	stop      func() error
	processes []*process.Process
}

// startCluster starts a control plane, or takes the cluster that the user named.
func startCluster(ctx context.Context, cfg Config, dir string) (cluster, error) {
	if cfg.Kubeconfig != "" {
		return ownCluster(ctx, cfg)
	}
	c, err := sandbox.StartControlPlane(ctx, sandbox.ControlPlaneConfig{
		Dir: dir, Nodes: 2, CacheDir: cfg.CacheDir, Progress: cfg.Out,
	})
	if err != nil {
		return cluster{}, err
	}
	return cluster{kubeconfig: c.Kubeconfig, kubectl: c.Kubectl, stop: c.Stop, processes: c.Processes()}, nil
}

func ownCluster(ctx context.Context, cfg Config) (cluster, error) {
	path, err := filepath.Abs(cfg.Kubeconfig)
	if err != nil {
		return cluster{}, fmt.Errorf("find the kubeconfig: %w", err)
	}
	c := cluster{kubeconfig: path, kubectl: ownKubectl()}
	if c.kubectl == "" {
		programs, err := sandbox.Build(ctx, sandbox.BuildConfig{
			Parts: []sandbox.Part{sandbox.PartKubernetes}, CacheDir: cfg.CacheDir, Progress: cfg.Out,
		})
		if err != nil {
			return cluster{}, err
		}
		c.kubectl = programs.Kubectl
	}
	return c, nil
}

// ownKubectl is the kubectl of the machine, or empty.
func ownKubectl() string {
	path, err := exec.LookPath("kubectl")
	if err != nil {
		return ""
	}
	return path
}

// ensureNamespace makes a namespace that is not there yet.
func (c cluster) ensureNamespace(ctx context.Context, name string) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig %s: %w", c.kubeconfig, err)
	}
	config.Timeout = 30 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client from %s: %w", c.kubeconfig, err)
	}
	_, err = client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", name, err)
	}
	return nil
}

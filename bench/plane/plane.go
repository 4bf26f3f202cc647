package plane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kas-agentk/kas/sandbox"
)

// Plane is a running control plane.
type Plane struct {
	// Kubeconfig is a file, for a client that may do everything; REST is the same.
	Kubeconfig string
	REST       *rest.Config
	// Version of the API server.
	Version string

	plane  *sandbox.ControlPlane
	client kubernetes.Interface
	audit  string
}

// policy has every request logged of whoever has the administrator's token, once.
const policy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: [sandbox-admin]
  - level: None
`

// Start starts one that keeps everything in dir.
func Start(ctx context.Context, dir string, progress io.Writer) (*Plane, error) {
	p := &Plane{audit: filepath.Join(dir, "audit.log")}
	policyFile := filepath.Join(dir, "audit-policy.yaml")
	if err := os.WriteFile(policyFile, []byte(policy), 0o600); err != nil {
		return nil, fmt.Errorf("write the audit policy: %w", err)
	}
	var err error
	p.plane, err = sandbox.StartControlPlane(ctx, sandbox.ControlPlaneConfig{
		Dir: filepath.Join(dir, "controlplane"), WithoutNodes: true, Progress: progress,
		APIServerArgs: []string{
			"--audit-policy-file=" + policyFile, "--audit-log-path=" + p.audit, "--audit-log-maxsize=4096",
		},
		ControllerManagerArgs: []string{"--controllers=namespace-controller"},
	})
	if err != nil {
		return nil, err
	}
	if err := p.connect(); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

func (p *Plane) connect() error {
	p.Kubeconfig = p.plane.Kubeconfig
	rc, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	rc.QPS, rc.UserAgent = -1, "bench-parent"
	p.REST = rc
	if p.client, err = kubernetes.NewForConfig(rc); err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	version, err := p.client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask for the API server's version: %w", err)
	}
	p.Version = version.GitVersion
	return nil
}

// Stop ends it.
func (p *Plane) Stop() error {
	return p.plane.Stop()
}

// CreateNamespace makes one.
func (p *Plane) CreateNamespace(ctx context.Context, name string) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := p.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// looking is how often AwaitEmpty looks, and patience how long.
const (
	looking  = 200 * time.Millisecond
	patience = 5 * time.Minute
)

var errLeft = errors.New("namespaces are left")

// Clear deletes the namespaces and returns when no namespace is being deleted any
// more, so that the next one finds the API server idle.
func (p *Plane) Clear(ctx context.Context, names ...string) error {
	for _, name := range names {
		err := p.client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete namespace %s: %w", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(looking)
	defer tick.Stop()
	for {
		list, err := p.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
		left := 0
		for i := range list.Items {
			if list.Items[i].DeletionTimestamp != nil {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d %w: %w", left, errLeft, ctx.Err())
		}
	}
}

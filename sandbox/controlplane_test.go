package sandbox_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox"
	"github.com/kas-agentk/kas/sandbox/process"
)

// kubectl runs the control plane's kubectl and returns what it prints.
func kubectl(ctx context.Context, c *sandbox.ControlPlane, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HOME="+c.Dir)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}

func mustKubectl(t *testing.T, c *sandbox.ControlPlane, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(t.Context(), c, stdin, args...)
	require.NoError(t, err)
	return out
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: default}\ndata: {k: v}\n"
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: c, image: nowhere.example/none:1}]}
`

// rollsOut applies a Deployment and waits until all its pods are ready, for which
// the controller-manager, the scheduler and kwok must all do their part.
func rollsOut(t *testing.T, c *sandbox.ControlPlane, name string) {
	t.Helper()
	mustKubectl(t, c, fmt.Sprintf(deployment, name), "apply", "-f", "-")
	mustKubectl(t, c, "", "rollout", "status", "deployment/"+name, "--timeout=60s")
}

func TestControlPlane_RollsOutADeployment(t *testing.T) {
	c := controlPlane(t)
	rollsOut(t, c, "web")
	require.Equal(t, "3", mustKubectl(t, c, "", "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"))
}

func TestControlPlane_ServesAWholeAPI(t *testing.T) {
	c := controlPlane(t)
	require.Contains(t, mustKubectl(t, c, "", "version", "-o", "json"), `"gitVersion": "v1.34.4"`)
	require.Equal(t, "yes", mustKubectl(t, c, "", "auth", "can-i", "*", "*", "--all-namespaces"))
	require.Equal(t, "no", cannot(t, c, "create", "configmaps", "--as=nobody"), "RBAC is on")

	mustKubectl(t, c, "", "create", "namespace", "fleeting")
	mustKubectl(t, c, "", "delete", "namespace", "fleeting", "--timeout=60s")
}

// cannot asks what is expected to be refused: kubectl then exits with status 1.
func cannot(t *testing.T, c *sandbox.ControlPlane, verb, resource, as string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.Kubectl, "auth", "can-i", verb, resource, as)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HOME="+c.Dir)
	out, err := cmd.Output()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	return strings.TrimSpace(string(out))
}

func TestControlPlane_SpeaksToWhoTrustsItsCertificate(t *testing.T) {
	c := controlPlane(t)
	ca, err := os.ReadFile(c.CAFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca))
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	for token, want := range map[string]int{c.Token: http.StatusOK, "wrong": http.StatusUnauthorized} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Host+"/api/v1/namespaces", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode)
	}
}

func TestControlPlane_WritesAKubeconfigWithANamespace(t *testing.T) {
	c := controlPlane(t)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, c.WriteKubeconfig(path, c.Token, "kube-system"))
	out := mustKubectl(t, c, "", "--kubeconfig="+path, "get", "serviceaccount", "default", "-o", "jsonpath={.metadata.namespace}")
	require.Equal(t, "kube-system", out)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds a token")
}

func TestControlPlane_EachPartMayBeKilledAndStartedAlone(t *testing.T) {
	c := controlPlane(t)
	mustKubectl(t, c, configMap("lasting"), "apply", "-f", "-")
	for _, part := range c.Processes() {
		t.Run(part.Name(), func(t *testing.T) {
			part.Kill()
			require.False(t, part.Running())
			require.NoError(t, part.Start(t.Context()))
			testkit.Eventually(t, func() error {
				_, err := kubectl(t.Context(), c, configMap("after-"+part.Name()), "apply", "-f", "-")
				return err
			})
		})
	}
	require.Equal(t, "v", mustKubectl(t, c, "", "get", "configmap", "lasting", "-o", "jsonpath={.data.k}"))
	rollsOut(t, c, "after-all")
	require.NoError(t, watchBriefly(t, c), "what was asked for is no failure")
}

// watchBriefly is the failure of a part that has been noticed by now, or nil.
func watchBriefly(t *testing.T, c *sandbox.ControlPlane) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := process.Watch(ctx, c.Processes()...)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func TestControlPlane_KeepsItsDataAndAddressInADirectoryOfItsOwn(t *testing.T) {
	cfg := sandbox.ControlPlaneConfig{Dir: t.TempDir(), WithoutControllers: true, WithoutNodes: true, Progress: os.Stderr}
	first, err := sandbox.StartControlPlane(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, first.Stop()) })
	require.Nil(t, first.ControllerManager)
	require.Nil(t, first.Kwok)
	mustKubectl(t, first, configMap("lasting"), "apply", "-f", "-")
	require.NoError(t, first.Stop())
	require.NoError(t, first.Stop(), "stopping twice")

	second, err := sandbox.StartControlPlane(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, second.Stop()) })
	require.Equal(t, first.Host, second.Host)
	require.Equal(t, first.Token, second.Token)
	require.Equal(t, "v", mustKubectl(t, second, "", "get", "configmap", "lasting", "-o", "jsonpath={.data.k}"))
}

func TestStartControlPlane_LeavesNothingBehindWhenItFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // in the middle: when etcd runs and the API server begins to
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if found, _ := filepath.Glob(filepath.Join(os.TempDir(), "*", "logs", "kube-apiserver.log")); len(found) > 0 || ctx.Err() != nil {
				cancel()
				return
			}
		}
	}()
	_, err := sandbox.StartControlPlane(ctx, sandbox.ControlPlaneConfig{WithoutControllers: true, WithoutNodes: true, Progress: os.Stderr})
	require.ErrorIs(t, err, context.Canceled)
	entries, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, entries)
}

package sandbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// adminClient asks a control plane the few things that its start needs to know. It
// keeps no connection, so nothing of it outlives a call.
type adminClient struct {
	host   string
	token  string
	client http.Client
}

func newAdminClient(host string, ca []byte, token string) (*adminClient, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the certificate authority's certificate is not PEM")
	}
	return &adminClient{host: host, token: token, client: http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true,
		},
	}}, nil
}

// do sends a request and returns status and body. An empty token is not sent.
func (a *adminClient) do(ctx context.Context, method, url, token string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, nil, err //nolint:wrapcheck // it names method and URL
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end below
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, url, err)
	}
	return resp.StatusCode, answer, nil
}

// probe wants status 200 of a health endpoint, which asks for no token.
func (a *adminClient) probe(ctx context.Context, url string) error {
	status, body, err := a.do(ctx, http.MethodGet, url, "", nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("GET %s: status %d: %s", url, status, bytes.TrimSpace(body))
	}
	return nil
}

// get reads an object of the API, or wants no more than that it is there.
func (a *adminClient) get(ctx context.Context, path string, into any) error {
	status, body, err := a.do(ctx, http.MethodGet, a.host+path, a.token, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("GET %s: status %d: %s", path, status, bytes.TrimSpace(body))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// ready wants an API server that serves and has made the namespace default, which
// it does a moment after it says that it is ready.
func (a *adminClient) ready(ctx context.Context) error {
	if err := a.get(ctx, "/readyz", nil); err != nil {
		return err
	}
	return a.get(ctx, "/api/v1/namespaces/default", nil)
}

// createNodes makes the nodes that are not there yet, and says of those that are where their
// kubelet is now.
func (a *adminClient) createNodes(ctx context.Context, count, kubeletPort int) error {
	for i := range count {
		name := fmt.Sprintf("node-%d", i)
		node, err := json.Marshal(map[string]any{
			"apiVersion": "v1",
			"kind":       "Node",
			"metadata": map[string]any{
				"name": name,
				"labels": map[string]string{
					"kubernetes.io/hostname": name,
					"kubernetes.io/os":       "linux",
					"kubernetes.io/arch":     "amd64",
				},
			},
		})
		if err != nil {
			return fmt.Errorf("make node %s: %w", name, err)
		}
		status, body, err := a.do(ctx, http.MethodPost, a.host+"/api/v1/nodes", a.token, node)
		if err != nil {
			return fmt.Errorf("make node %s: %w", name, err)
		}
		switch status {
		case http.StatusCreated:
		case http.StatusConflict:
			if err := a.moveKubelet(ctx, name, kubeletPort); err != nil {
				return err
			}
		default:
			return fmt.Errorf("make node %s: status %d: %s", name, status, body)
		}
	}
	return nil
}

// moveKubelet says where a node's kubelet is. kwok does so only for nodes that are not ready.
func (a *adminClient) moveKubelet(ctx context.Context, node string, port int) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"addresses":       []any{map[string]string{"type": "InternalIP", "address": "127.0.0.1"}},
		"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": port}},
	}})
	if err != nil {
		return fmt.Errorf("move the kubelet of %s: %w", node, err)
	}
	status, body, err := a.do(ctx, http.MethodPatch, a.host+"/api/v1/nodes/"+node+"/status", a.token, patch)
	if err != nil {
		return fmt.Errorf("move the kubelet of %s: %w", node, err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("move the kubelet of %s: status %d: %s", node, status, body)
	}
	return nil
}

// nodesReady wants so many nodes to be ready, or says how many are.
func (a *adminClient) nodesReady(ctx context.Context, want int) error {
	var list struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := a.get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	ready := 0
	for _, node := range list.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				ready++
			}
		}
	}
	if ready < want {
		return fmt.Errorf("%d of %d nodes are ready", ready, want)
	}
	return nil
}

// portOf is the port of an address that was made from one.
func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}

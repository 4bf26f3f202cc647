package stack

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kas-agentk/kas/sandbox/ports"
	"github.com/kas-agentk/kas/sandbox/process"
)

// AgentkConfig is what an agentk needs. All but TracingEndpoint and Args is required.
type AgentkConfig struct {
	// Dir keeps its token, state and log.
	Dir string
	// Program is the path of agentk.
	Program string
	// KasAddress is what it dials.
	KasAddress string
	// Token is the agent token.
	Token string
	// Kubeconfig of the cluster, and the namespace for its own objects.
	Kubeconfig, Namespace string
	// TracingEndpoint is the URL of an OTLP/HTTP collector. Empty: nothing is traced.
	TracingEndpoint string
	// Args are further arguments.
	Args []string
}

// Agentk is an agentk that can be started.
type Agentk struct {
	*process.Process
	// MetricsURL is its Prometheus endpoint.
	MetricsURL string
	// TokenFile may be rewritten while it runs.
	TokenFile string

	ports *ports.Set
}

// NewAgentk prepares one; nothing runs until Start. Started is not yet connected:
// it has only begun to try.
func NewAgentk(cfg AgentkConfig) (*Agentk, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make agentk's folder: %w", err)
	}
	a := &Agentk{TokenFile: filepath.Join(cfg.Dir, "token")}
	if err := os.WriteFile(a.TokenFile, []byte(cfg.Token+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write the agent's token: %w", err)
	}
	var err error
	if a.ports, err = ports.Open(filepath.Join(cfg.Dir, "ports.json")); err != nil {
		return nil, fmt.Errorf("choose agentk's port: %w", err)
	}
	metrics, err := a.ports.Address("metrics")
	if err != nil {
		return nil, fmt.Errorf("choose agentk's port: %w", err)
	}
	a.MetricsURL = "http://" + metrics + "/metrics"
	a.Process = process.New(process.Config{
		Name: "agentk",
		Path: cfg.Program,
		Args: append([]string{
			"--kas-address=" + cfg.KasAddress,
			"--token-file=" + a.TokenFile,
			"--state-dir=" + filepath.Join(cfg.Dir, "state"),
			"--kubeconfig=" + cfg.Kubeconfig,
			"--namespace=" + cfg.Namespace,
			"--observability-listen-address=" + metrics,
		}, append(tracingFlag(cfg.TracingEndpoint), cfg.Args...)...),
		LogFile: filepath.Join(cfg.Dir, "agentk.log"),
		Ready:   answers("http://" + metrics + "/liveness"),
	})
	return a, nil
}

// tracingFlag is the flag of ror and agentk for a collector, if there is one.
func tracingFlag(endpoint string) []string {
	if endpoint == "" {
		return nil
	}
	return []string{"--tracing-otlp-endpoint=" + endpoint}
}

// Close stops it, if it runs, and gives its port back.
func (a *Agentk) Close() error {
	if err := a.Stop(); err != nil {
		return fmt.Errorf("stop agentk: %w", err)
	}
	if err := a.ports.Close(); err != nil {
		return fmt.Errorf("give agentk's port back: %w", err)
	}
	return nil
}

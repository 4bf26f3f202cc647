package harness

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kas-agentk/kas/sandbox/ports"
	"github.com/kas-agentk/kas/sandbox/process"
)

// Kas is a kas of the fixture's own, beside the Env's.
type Kas struct {
	*process.Process
	// AgentAddress is what agentk dials, APIAddress what RoR dials.
	AgentAddress, APIAddress string
	// ProxyURL is where its Kubernetes API proxy begins.
	ProxyURL string
	// MetricsURL is its Prometheus endpoint.
	MetricsURL string
}

// NewKas starts a kas that polls that often. It is stopped when the test ends.
func (f *Fixture) NewKas(pollPeriod time.Duration) *Kas {
	f.T.Helper()
	return f.NewKasWith(pollPeriod, func(config string) string { return config })
}

// NewKasWith is NewKas with a configuration file that was changed.
func (f *Fixture) NewKasWith(pollPeriod time.Duration, change func(config string) string) *Kas {
	f.T.Helper()
	k := f.prepareKas(pollPeriod, change)
	f.Start(k)
	return k
}

// prepareKas is NewKasWith that leaves the start to the caller.
func (f *Fixture) prepareKas(pollPeriod time.Duration, change func(config string) string) *Kas {
	f.T.Helper()
	chosen, err := ports.Open("")
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() { _ = chosen.Close() })
	take := func(name string) string {
		address, err := chosen.Address(name)
		if err != nil {
			f.T.Fatal(err)
		}
		return address
	}
	agent, api, proxy, metrics := take("agent"), take("api"), take("proxy"), take("metrics")
	ours, err := os.ReadFile(filepath.Join(f.Dir, "stack", "kas.yaml"))
	if err != nil {
		f.T.Fatal(err)
	}
	lines := strings.Split(strings.NewReplacer(
		strings.TrimPrefix(f.Stack.KasAgentAddress, "grpc://"), agent,
		f.Stack.KasAPIAddress, api,
		proxyAddress(f.Stack.KasProxyURL), proxy,
		strings.TrimSuffix(strings.TrimPrefix(f.Stack.KasMetricsURL, "http://"), "/metrics"), metrics,
	).Replace(string(ours)), "\n")
	for i, line := range lines {
		if before, _, ok := strings.Cut(line, "poll_period:"); ok {
			lines[i] = before + "poll_period: " + pollPeriod.String()
		}
	}
	_, port, _ := strings.Cut(agent, ":")
	dir := filepath.Join(f.Dir, f.Name, "kas-"+port) // there may be several
	if err := os.MkdirAll(dir, 0o700); err != nil {
		f.T.Fatal(err)
	}
	file := filepath.Join(dir, "kas.yaml")
	if err := os.WriteFile(file, []byte(change(strings.Join(lines, "\n"))), 0o600); err != nil {
		f.T.Fatal(err)
	}
	k := &Kas{
		AgentAddress: "grpc://" + agent, APIAddress: api, ProxyURL: strings.Replace(f.Stack.KasProxyURL, proxyAddress(f.Stack.KasProxyURL), proxy, 1),
		MetricsURL: "http://" + metrics + "/metrics",
	}
	k.Process = process.New(process.Config{
		Name: "kas of " + f.Name, Path: f.Programs.Kas, Args: []string{"--configuration-file=" + file},
		LogFile: filepath.Join(dir, "kas.log"),
		Ready: func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", api)
			if err == nil {
				_ = conn.Close()
			}
			return err
		},
	})
	f.T.Cleanup(func() {
		if err := k.Stop(); err != nil {
			f.T.Error(err)
		}
	})
	f.guards.watch(k.Process)
	return k
}

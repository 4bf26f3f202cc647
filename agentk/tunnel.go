package agentk

import (
	"github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/api/agentrpc"
)

// newTunnel returns what answers kas over the connection. Without services it opens
// nothing.
func (a *Agent) newTunnel(metrics *tunnel.Metrics) *tunnel.Server {
	server := tunnel.NewServer(tunnel.Config{
		Client:  agentrpc.NewReverseTunnelClient(a.conn),
		Meta:    a.meta,
		Log:     a.cfg.Log,
		Metrics: metrics,
		Tracing: a.cfg.Tracing,
		Ended:   func(err error) { a.link.ended("tunnel", err) },
		Clock:   a.cfg.Clock,
		Lost:    a.cfg.reopen.lost,
		Refused: a.cfg.reopen.refused,
	})
	for _, register := range a.cfg.Services {
		register(server)
	}
	if a.cfg.Examiner != nil {
		agentrpc.RegisterDiagnosticsServer(server, &diagnostics{agent: a, started: a.cfg.Clock.Now()})
	}
	return server
}

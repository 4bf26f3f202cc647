package kas

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kas-agentk/kas/kas/agents"
	"github.com/kas-agentk/kas/kas/diagnose"
	"github.com/kas-agentk/kas/kas/status"
	"github.com/kas-agentk/kas/kas/tunnel"
)

// newDiagnostics makes what finds out why an agent does not do what it should.
func newDiagnostics(m *many, here *tunnel.Server, registry *agents.Registry, statuses *status.Store) *diagnose.Server {
	cfg, with := diagnose.Config{}, diagnose.Collaborators{Tunnel: here, Agents: registry, Statuses: statuses}
	if m != nil {
		cfg.Self, with.Others = m.presence.self, everyOther{m}
	}
	return diagnose.NewServer(cfg, with)
}

// everyOther is all other replicas, whichever agents they have.
type everyOther struct{ *many }

// All implements diagnose.Others.
func (e everyOther) All(ctx context.Context) (map[string]grpc.ClientConnInterface, error) {
	urls, err := e.replicas.Others(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]grpc.ClientConnInterface, len(urls))
	for _, url := range urls {
		all[url] = e.calls.Conn(url)
	}
	return all, nil
}

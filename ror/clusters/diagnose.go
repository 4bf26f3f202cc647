package clusters

import (
	"context"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/registry"
)

// Diagnose finds out why an agent, whose tokens that are not revoked are these, does not do
// what it should. That it is away is an answer, too.
func (c *Clusters) Diagnose(ctx context.Context, a registry.Agent, tokens *railsrpc.AgentTokens) (*railsrpc.DiagnoseResponse, error) {
	return c.kas.Diagnose(ctx, &railsrpc.DiagnoseRequest{AgentId: a.ID, Tokens: tokens})
}

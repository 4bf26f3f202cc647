package kasapi

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/kas-agentk/kas/api/railsrpc"
)

// Diagnose has kas find out why an agent does not do what it should.
func (c *Client) Diagnose(ctx context.Context, req *railsrpc.DiagnoseRequest) (*railsrpc.DiagnoseResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	var who peer.Peer
	res, err := c.diagnostics.Diagnose(ctx, req, grpc.Peer(&who))
	return res, toError(err, &who, QueryTimeout)
}

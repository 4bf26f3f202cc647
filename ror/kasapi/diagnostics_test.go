package kasapi_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
)

// diagnostics is kas's end of a diagnosis.
type diagnostics struct {
	railsrpc.UnimplementedAgentDiagnosticsServer
}

func (diagnostics) Diagnose(_ context.Context, r *railsrpc.DiagnoseRequest) (*railsrpc.DiagnoseResponse, error) {
	return &railsrpc.DiagnoseResponse{AgentId: r.GetAgentId()}, nil
}

func TestDiagnose_AsksKas(t *testing.T) {
	c := serve(t, secret, func(srv *grpc.Server) { railsrpc.RegisterAgentDiagnosticsServer(srv, diagnostics{}) })
	found, err := c.Diagnose(t.Context(), &railsrpc.DiagnoseRequest{AgentId: 7})
	require.NoError(t, err)
	require.EqualValues(t, 7, found.GetAgentId())

	old := serve(t, secret, func(*grpc.Server) {})
	_, err = old.Diagnose(t.Context(), &railsrpc.DiagnoseRequest{AgentId: 7})
	var said *kasapi.Error
	require.ErrorAs(t, err, &said)
	require.Equal(t, codes.Unimplemented, said.Code)
	require.ErrorContains(t, err, "kas as new as this server?")
}

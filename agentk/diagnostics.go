package agentk

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
)

// Examiner looks at the cluster: *diagnose.Examiner of agentk/diagnose.
type Examiner interface {
	// Configure takes the agent's newest configuration.
	Configure(*agentcfg.ConfigurationFile)
	// Examine fills in what an answer says of the cluster.
	Examine(ctx context.Context, agentID int64, kinds []*agentrpc.UsedKind, into *agentrpc.DiagnoseResponse)
}

// diagnostics tells of this process. It implements agentrpc.DiagnosticsServer.
type diagnostics struct {
	agentrpc.UnimplementedDiagnosticsServer
	agent   *Agent
	started time.Time
}

// Ping implements agentrpc.DiagnosticsServer.
func (d *diagnostics) Ping(context.Context, *agentrpc.PingRequest) (*agentrpc.PingResponse, error) {
	return &agentrpc.PingResponse{Now: timestamppb.New(d.agent.cfg.Clock.Now())}, nil
}

// Diagnose implements agentrpc.DiagnosticsServer.
func (d *diagnostics) Diagnose(ctx context.Context, req *agentrpc.DiagnoseRequest) (*agentrpc.DiagnoseResponse, error) {
	answer := &agentrpc.DiagnoseResponse{
		AgentMeta:  d.agent.meta(ctx),
		StartedAt:  timestamppb.New(d.started),
		KasAddress: d.agent.cfg.KASAddress,
	}
	d.agent.cfg.Examiner.Examine(ctx, req.GetAgentId(), req.GetKinds(), answer)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.agent.link.tell(answer)
	answer.Now = timestamppb.New(d.agent.cfg.Clock.Now())
	return answer, nil
}

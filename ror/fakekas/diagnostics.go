package fakekas

import (
	"context"

	"github.com/kas-agentk/kas/api/railsrpc"
)

// Diagnostics is what Kas says of agents.
type Diagnostics struct {
	// Diagnosed are the questions, Diagnosis and Undiagnosed the answer.
	Diagnosed   []*railsrpc.DiagnoseRequest
	Diagnosis   *railsrpc.DiagnoseResponse
	Undiagnosed error
}

// Diagnose implements what clusters asks of kas.
func (d *Diagnostics) Diagnose(_ context.Context, r *railsrpc.DiagnoseRequest) (*railsrpc.DiagnoseResponse, error) {
	d.Diagnosed = append(d.Diagnosed, r)
	return d.Diagnosis, d.Undiagnosed
}

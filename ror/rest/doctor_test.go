package rest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/ror/kasapi"
)

func TestDoctor_PassesOnWhatKasFinds(t *testing.T) {
	h := newAgent(t)
	h.beside.Diagnosis = &railsrpc.DiagnoseResponse{AgentId: 1, Checks: []*railsrpc.Check{{Verdict: railsrpc.Verdict_VERDICT_OK, Name: "clock", Detail: "the same"}}}
	const path = "/projects/root%2Fapp/cluster_agents/1/doctor"
	require.JSONEq(t, `{"agent_id":"1","checks":[{"verdict":"VERDICT_OK","name":"clock","detail":"the same"}]}`, h.must("root", "GET", path, ""))
	require.True(t, proto.Equal(&railsrpc.DiagnoseRequest{AgentId: 1, Tokens: &railsrpc.AgentTokens{}}, h.beside.Diagnosed[0]), h.beside.Diagnosed[0])

	for range 2 {
		h.must("root", "POST", "/projects/1/cluster_agents/1/tokens", `{"name":"t"}`)
	}
	token, err := h.reg.AgentTokens(t.Context(), 1)
	require.NoError(t, err)
	require.Len(t, token, 2)
	_, used, err := h.reg.CreateAgentToken(t.Context(), 1, "used", "", 1)
	require.NoError(t, err)
	_, err = h.reg.AgentByToken(t.Context(), used)
	require.NoError(t, err)
	h.must("root", "GET", path, "")
	require.True(t, proto.Equal(&railsrpc.AgentTokens{
		Number: 3, LastUsedAt: timestamppb.New(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)),
	}, h.beside.Diagnosed[1].GetTokens()), h.beside.Diagnosed[1])

	h.beside.Undiagnosed = &kasapi.Error{Code: codes.Unavailable, Message: "kas cannot be reached"}
	code, answer := h.do("root", "GET", path, "")
	require.Equal(t, 503, code)
	require.Contains(t, answer, "kas cannot be reached")
	code, _ = h.do("ada", "GET", path, "")
	require.Equal(t, 404, code, "it is for who may see the agent")
	require.Len(t, h.beside.Diagnosed, 3)
}

package overview_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/ror/fakekas"
	"github.com/kas-agentk/kas/ror/overview"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestWorst_IsWhatMostWantsAttention(t *testing.T) {
	agent := func(states ...syncstatus.State) overview.Agent {
		a := overview.Agent{AgentStates: registry.AgentStates{Projects: map[syncstatus.State]int{}}}
		for _, s := range states {
			a.Projects[s]++
		}
		return a
	}
	require.Equal(t, syncstatus.State_STATE_UNSPECIFIED, agent().Worst())
	require.Equal(t, syncstatus.State_STATE_SYNCED, agent(syncstatus.State_STATE_SYNCED).Worst())
	require.Equal(t, syncstatus.State_STATE_PARTIAL,
		agent(syncstatus.State_STATE_SYNCED, syncstatus.State_STATE_PARTIAL, syncstatus.State_STATE_PENDING).Worst())
	for value := range syncstatus.State_name {
		if s := syncstatus.State(value); s != syncstatus.State_STATE_UNSPECIFIED {
			require.Equal(t, s, agent(s).Worst(), "every state has a severity")
		}
	}
}

func TestDescribe_KasMayBeAway(t *testing.T) {
	reg, err := registry.Open(t.Context(), registry.Config{Path: filepath.Join(t.TempDir(), "ror.db"), PasswordCost: bcrypt.MinCost})
	require.NoError(t, err)
	defer func() { require.NoError(t, reg.Close()) }()
	agents := []registry.Agent{{ID: 1}, {ID: 2}}

	list, err := overview.New(reg, &fakekas.Kas{Connected: []*railsrpc.ConnectedAgent{{AgentId: 2}, {AgentId: 3}}}).Describe(t.Context(), agents)
	require.NoError(t, err)
	require.Empty(t, list.KasError)
	require.Empty(t, list.Agents[0].Connections)
	require.Len(t, list.Agents[1].Connections, 1)

	for code, want := range map[codes.Code]string{
		codes.Unavailable:      "kas cannot be reached",
		codes.DeadlineExceeded: "kas does not answer in time",
		codes.Unauthenticated:  "kas does not accept the secret that it should share with this server",
		codes.Unimplemented:    "kas does not know this call: is the address that of its API for RoR, and kas as new as this server?",
	} {
		away := &fakekas.Kas{Away: fmt.Errorf("ask: %w", status.Error(code, "no"))}
		list, err := overview.New(reg, away).Describe(t.Context(), agents)
		require.NoError(t, err)
		require.Equal(t, want, list.KasError)
		require.Len(t, list.Agents, 2)
	}
}

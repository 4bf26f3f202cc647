package agentk

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/admin"
)

func TestHistory_RemembersHowConnectionsEnded(t *testing.T) {
	m, err := newMetrics(admin.NewRegistry())
	require.NoError(t, err)
	begin := time.Unix(1_700_000_000, 0)
	clk := clocktesting.NewFakePassiveClock(begin)
	l := &link{metrics: m, clock: clk}
	told := func() *agentrpc.DiagnoseResponse {
		answer := &agentrpc.DiagnoseResponse{}
		l.tell(answer)
		return answer
	}
	l.down(errors.New("refused"))
	require.Empty(t, told().GetDisconnections(), "there was no connection")
	require.Nil(t, told().GetConnectedAt())

	l.up()
	clk.SetTime(begin.Add(time.Minute))
	l.up() // it still is
	require.True(t, told().GetConnectedAt().AsTime().Equal(begin))
	l.down(fmt.Errorf("watch configuration: %w", status.Error(codes.Unavailable, "keepalive ping failed")))
	require.Nil(t, told().GetConnectedAt())
	first := told().GetDisconnections()[0]
	require.True(t, first.GetAt().AsTime().Equal(begin.Add(time.Minute)))
	require.Equal(t, time.Minute, first.GetLasted().AsDuration())
	require.Equal(t, "watch configuration: keepalive ping failed", first.GetReason())
	require.Nil(t, first.GetAway())

	clk.SetTime(begin.Add(time.Minute + 3*time.Second))
	l.up()
	require.Equal(t, 3*time.Second, told().GetDisconnections()[0].GetAway().AsDuration())
	l.down(status.Error(codes.Unauthenticated, "unknown"))
	require.Contains(t, told().GetDisconnections()[0].GetReason(), "token unknown or revoked", "the newest comes first")
	require.Len(t, told().GetDisconnections(), 2)
	for range maxDisconnections {
		l.up()
		l.down(errors.New("again"))
	}
	require.Len(t, told().GetDisconnections(), maxDisconnections)
	require.Equal(t, "again", told().GetDisconnections()[maxDisconnections-1].GetReason())
}

// fakeExaminer says that it was asked.
type fakeExaminer struct {
	configured chan *agentcfg.ConfigurationFile
}

func (e *fakeExaminer) Configure(file *agentcfg.ConfigurationFile) { e.configured <- file }

func (e *fakeExaminer) Examine(_ context.Context, agentID int64, kinds []*agentrpc.UsedKind, into *agentrpc.DiagnoseResponse) {
	into.Leadership = &agentrpc.Leadership{Lease: fmt.Sprintf("%d/%s", agentID, kinds[0].GetKind())}
}

// askTunnel makes a unary call on a stream of the tunnel.
func askTunnel(t *testing.T, s agentrpc.ReverseTunnel_ConnectServer, rpc uint64, method string, question, answer proto.Message) {
	t.Helper()
	data, err := proto.Marshal(question)
	require.NoError(t, err)
	require.NoError(t, s.Send(&agentrpc.TunnelRequest{
		Rpc: rpc, Start: &agentrpc.TunnelStart{Method: method},
		Messages: []*agentrpc.TunnelMessage{{Data: data}}, HalfClose: true,
	}))
	m, err := s.Recv()
	require.NoError(t, err)
	require.EqualValues(t, codes.OK, m.GetTrailers().GetCode(), m.GetTrailers().GetMessage())
	require.NoError(t, proto.Unmarshal(m.GetMessages()[0].GetData(), answer))
}

func TestDiagnostics_TellsOfTheProcessItsConnectionAndTheCluster(t *testing.T) {
	examiner := &fakeExaminer{configured: make(chan *agentcfg.ConfigurationFile, 10)}
	r := &rig{engine: newFakeEngine(), tokenFile: filepath.Join(t.TempDir(), "token"), elector: standsBy{}}
	r.kas = startFakeKAS(t, nil)
	r.run(t, "grpc://"+r.kas.address, func(cfg *Config) { cfg.Examiner = examiner })
	r.kas.configure(5, project("a"))
	require.Equal(t, "a", (<-examiner.configured).GetGitops().GetManifestProjects()[0].GetId())

	s := r.kas.tunnel.next(t)
	hello, err := s.Recv()
	require.NoError(t, err)
	require.Equal(t, []string{agentrpc.Diagnostics_ServiceDesc.ServiceName}, hello.GetHello().GetServices())
	ping := &agentrpc.PingResponse{}
	askTunnel(t, s, 1, agentrpc.Diagnostics_Ping_FullMethodName, &agentrpc.PingRequest{}, ping)
	require.NotNil(t, ping.GetNow())
	found := &agentrpc.DiagnoseResponse{}
	askTunnel(t, s, 2, agentrpc.Diagnostics_Diagnose_FullMethodName,
		&agentrpc.DiagnoseRequest{AgentId: 5, Kinds: []*agentrpc.UsedKind{{Kind: "Secret"}}}, found)
	require.Equal(t, "agentk-0", found.GetAgentMeta().GetPodName())
	require.Equal(t, "grpc://"+r.kas.address, found.GetKasAddress())
	require.NotNil(t, found.GetConnectedAt(), "it has a configuration of kas")
	require.Empty(t, found.GetDisconnections())
	require.Equal(t, "5/Secret", found.GetLeadership().GetLease())
	require.False(t, found.GetNow().AsTime().Before(found.GetStartedAt().AsTime()))
}

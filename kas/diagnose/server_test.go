package diagnose

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent answers in its place, after a time that it takes.
type agent struct {
	grpc.ClientConnInterface
	clock *clocktesting.FakeClock
	// take is how long each answer takes, in turn; the last counts again and again.
	take []time.Duration
	// ahead its clock is. silent: it does not answer.
	ahead  time.Duration
	silent bool
	asked  *agentrpc.DiagnoseRequest
}

func (a *agent) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if a.silent {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	switch method {
	case agentrpc.Diagnostics_Ping_FullMethodName:
		a.clock.Step(a.take[0] / 2)
		proto.Merge(reply.(proto.Message), &agentrpc.PingResponse{Now: timestamppb.New(a.clock.Now().Add(a.ahead))})
		a.clock.Step(a.take[0] / 2)
		if len(a.take) > 1 {
			a.take = a.take[1:]
		}
		return nil
	case agentrpc.Diagnostics_Diagnose_FullMethodName:
		a.asked = args.(*agentrpc.DiagnoseRequest)
		proto.Merge(reply.(proto.Message), &agentrpc.DiagnoseResponse{KasAddress: "grpc://kas:1", Now: timestamppb.New(a.clock.Now()), StartedAt: timestamppb.New(a.clock.Now())})
		return nil
	}
	return status.Error(codes.Unimplemented, method)
}

// world is everybody whom a Server works with.
type world struct {
	agent    *agent
	services []string
	streams  []*railsrpc.TunnelStreams
	agents   []*railsrpc.ConnectedAgent
	departed []*agentrpc.Disconnection
	project  *syncstatus.ProjectStatus
	others   map[string]grpc.ClientConnInterface
	lookup   error
}

func (w *world) Conn(int64) grpc.ClientConnInterface                  { return w.agent }
func (w *world) Here(int64) grpc.ClientConnInterface                  { return w.agent }
func (w *world) Services(int64) []string                              { return w.services }
func (w *world) Streams(int64) []*railsrpc.TunnelStreams              { return w.streams }
func (w *world) Connected([]int64, *int64) []*railsrpc.ConnectedAgent { return w.agents }
func (w *world) Departed(int64) []*agentrpc.Disconnection             { return w.departed }
func (w *world) All(context.Context) (map[string]grpc.ClientConnInterface, error) {
	return w.others, w.lookup
}
func (w *world) Get(context.Context, int64, string) (*syncstatus.ProjectStatus, bool) {
	return w.project, true
}

func (w *world) List(context.Context, int64) ([]*syncstatus.ProjectStatus, *syncstatus.ConfigurationStatus) {
	return []*syncstatus.ProjectStatus{{ProjectId: "1"}}, nil
}

func (w *world) server(cfg Config) *Server {
	cfg.Clock = w.agent.clock
	return NewServer(cfg, Collaborators{Tunnel: w, Agents: w, Statuses: w, Others: w})
}

func newWorld() *world {
	return &world{agent: &agent{clock: clocktesting.NewFakeClock(epoch), take: []time.Duration{10 * time.Millisecond}}}
}

// connected is a world in which the agent is connected to this kas.
func connected() *world {
	w := newWorld()
	w.services = []string{agentrpc.Diagnostics_ServiceDesc.ServiceName}
	w.streams = []*railsrpc.TunnelStreams{{InstanceId: 1, Idle: 1}}
	w.agents = []*railsrpc.ConnectedAgent{{AgentId: 7, InstanceId: 1, ConnectedAt: before(time.Minute)}}
	return w
}

func diagnose(t *testing.T, s railsrpc.AgentDiagnosticsServer) *railsrpc.DiagnoseResponse {
	t.Helper()
	found, err := s.Diagnose(t.Context(), &railsrpc.DiagnoseRequest{AgentId: 7})
	require.NoError(t, err)
	return found
}

func TestDiagnose_MeasuresTheWayAndTheClock(t *testing.T) {
	w := connected()
	w.agent.take = []time.Duration{40 * time.Millisecond, 20 * time.Millisecond, 4 * time.Millisecond, 20 * time.Millisecond, 6 * time.Millisecond}
	w.agent.ahead = -time.Minute
	p := diagnose(t, w.server(Config{})).GetKas()[0].GetPings()
	require.EqualValues(t, 5, p.GetSent())
	require.Zero(t, p.GetLost())
	require.Equal(t, 20*time.Millisecond, p.GetRttP50().AsDuration())
	require.Equal(t, 40*time.Millisecond, p.GetRttWorst().AsDuration())
	require.Equal(t, -time.Minute, p.GetClockSkew().AsDuration())
	require.Equal(t, 2*time.Millisecond, p.GetClockError().AsDuration(), "half of the quickest")
}

func TestDiagnose_AsksTheAgentAboutKindsOfItsProjects(t *testing.T) {
	w := connected()
	object := func(group, kind, namespace string) *syncstatus.ObjectStatus {
		return &syncstatus.ObjectStatus{Id: &syncstatus.ObjectID{Group: group, Kind: kind, Namespace: namespace}}
	}
	w.project = &syncstatus.ProjectStatus{Objects: []*syncstatus.ObjectStatus{
		object("apps", "Deployment", "web"), object("", "Secret", "web"), object("", "Namespace", ""), object("", "Secret", "shop"), object("", "Secret", "web"),
	}}
	found := diagnose(t, w.server(Config{}))
	require.Equal(t, "grpc://kas:1", found.GetAgent().GetKasAddress())
	require.True(t, proto.Equal(&agentrpc.DiagnoseRequest{AgentId: 7, Kinds: []*agentrpc.UsedKind{
		{Kind: "Namespace"}, {Kind: "Secret", Namespaces: []string{"web", "shop"}}, {Group: "apps", Kind: "Deployment", Namespaces: []string{"web"}},
	}}, w.agent.asked), "%v", w.agent.asked)
	require.NotEmpty(t, found.GetChecks())
}

func TestDiagnose_AnAgentThatIsAwayIsNotWaitedFor(t *testing.T) {
	w := newWorld()
	w.agent.silent = true // whoever asks it waits for ever
	w.departed = []*agentrpc.Disconnection{ended(time.Minute, time.Hour, "killed")}
	found := diagnose(t, w.server(Config{}))
	require.Equal(t, "not connected", found.GetAgentError())
	require.Nil(t, found.GetKas()[0].GetPings())
	require.Equal(t, railsrpc.Verdict_VERDICT_FAIL, found.GetChecks()[0].GetVerdict())
	require.Contains(t, found.GetChecks()[0].GetDetail(), "killed")
}

func TestDiagnose_AnAgentThatIsSilentIsGivenUp(t *testing.T) {
	w := connected()
	w.agent.silent = true
	found := diagnose(t, w.server(Config{Timeout: 100 * time.Millisecond, PingTimeout: 10 * time.Millisecond}))
	p := found.GetKas()[0].GetPings()
	require.EqualValues(t, 2, p.GetSent(), "two are enough to know")
	require.EqualValues(t, 2, p.GetLost())
	require.Contains(t, p.GetError(), "deadline")
	require.Contains(t, found.GetAgentError(), "deadline")
}

func TestDiagnose_AnAgentThatIsSlowIsNotPingedForLong(t *testing.T) {
	w := connected()
	w.agent.take = []time.Duration{3 * time.Second} // the clock's: no time passes
	p := diagnose(t, w.server(Config{PingTimeout: 2 * time.Second})).GetKas()[0].GetPings()
	require.EqualValues(t, 2, p.GetSent())
	require.Zero(t, p.GetLost())
	require.Equal(t, 3*time.Second, p.GetRttP50().AsDuration())
}

func TestDiagnose_AnAgentThatIsTooOldIsNotPinged(t *testing.T) {
	w := connected()
	w.services = []string{"agentrpc.ClusterQuery"}
	require.Nil(t, diagnose(t, w.server(Config{})).GetKas()[0].GetPings())
}

// another is another kas.
type another struct {
	grpc.ClientConnInterface
	answer railsrpc.AgentDiagnosticsServer
}

func (a another) Invoke(ctx context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	answer, err := a.answer.Diagnose(ctx, args.(*railsrpc.DiagnoseRequest))
	if err == nil {
		proto.Merge(reply.(proto.Message), answer)
	}
	return err
}

func TestDiagnose_AsksOtherKas(t *testing.T) {
	w, theirs, idle := newWorld(), connected(), newWorld()
	w.others = map[string]grpc.ClientConnInterface{
		"grpc://c:1": another{answer: theirs.server(Config{Self: "grpc://whatever-it-says"}).Local()},
		"grpc://b:1": another{answer: railsrpc.UnimplementedAgentDiagnosticsServer{}},
		"grpc://d:1": another{answer: idle.server(Config{}).Local()},
	}
	found := diagnose(t, w.server(Config{Self: "grpc://a:1"}))
	require.Len(t, found.GetKas(), 3, "who knows nothing is left out")
	require.Equal(t, "grpc://a:1", found.GetKas()[0].GetUrl())
	require.Equal(t, "grpc://b:1", found.GetKas()[1].GetUrl())
	require.Contains(t, found.GetKas()[1].GetError(), "not implemented")
	require.Equal(t, "grpc://c:1", found.GetKas()[2].GetUrl())
	require.EqualValues(t, 5, found.GetKas()[2].GetPings().GetSent(), "that kas has sent them")
	require.NotNil(t, found.GetAgent(), "by way of the other kas")

	w.others, w.lookup = nil, errors.New("Redis is away")
	found = diagnose(t, w.server(Config{}))
	require.Contains(t, found.GetKas()[0].GetError(), "Redis is away")
	require.Contains(t, found.GetAgentError(), "as far as is known", "it may be connected to one that was not asked")
}

func TestDiagnose_NeedsAnAgent(t *testing.T) {
	s := newWorld().server(Config{})
	for _, one := range []railsrpc.AgentDiagnosticsServer{s, s.Local()} {
		_, err := one.Diagnose(t.Context(), &railsrpc.DiagnoseRequest{})
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	}
}

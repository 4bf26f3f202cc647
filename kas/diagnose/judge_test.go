package diagnose

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
)

var epoch = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func before(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(epoch.Add(-d)) }

func ended(ago, lasted time.Duration, reason string) *agentrpc.Disconnection {
	return &agentrpc.Disconnection{At: before(ago), Lasted: durationpb.New(lasted), Reason: reason}
}

// healthy is what is found of an agent with which all is well.
func healthy() *railsrpc.DiagnoseResponse {
	return &railsrpc.DiagnoseResponse{
		AgentId: 7, At: timestamppb.New(epoch),
		Kas: []*railsrpc.KasView{{
			Connections: []*railsrpc.ConnectedAgent{{InstanceId: 1, Version: "v1.2.3", PodNamespace: "gitlab-agent", PodName: "agentk-0", ConnectedAt: before(3 * time.Hour)}},
			Streams:     []*railsrpc.TunnelStreams{{InstanceId: 1, Idle: 2, Busy: 1}},
			Pings: &railsrpc.Pings{
				Sent: 5, RttP50: durationpb.New(2 * time.Millisecond), RttWorst: durationpb.New(7 * time.Millisecond),
				ClockSkew: durationpb.New(-30 * time.Millisecond), ClockError: durationpb.New(time.Millisecond),
			},
		}},
		Agent: &agentrpc.DiagnoseResponse{
			Now: timestamppb.New(epoch), StartedAt: before(72 * time.Hour), KasAddress: "grpcs://kas.example.com:443",
			Leadership:  &agentrpc.Leadership{Lease: "gitlab-agent/agentk-7", Holder: "agentk-0", Self: true, RenewedAt: before(time.Second)},
			ApiServer:   &agentrpc.ApiServer{Version: "v1.34.4", Rtt: durationpb.New(1234 * time.Microsecond)},
			Permissions: &agentrpc.Permissions{User: "system:serviceaccount:gitlab-agent:agentk", Checked: 42},
		},
		Configuration: &syncstatus.ConfigurationStatus{CommitId: "0123456789abcdef"},
		Projects: []*syncstatus.ProjectStatus{{
			ProjectId: "1", ProjectPath: "demo/web", State: syncstatus.State_STATE_SYNCED, AppliedCommit: "fedcba9876543210", UpdatedAt: before(90 * time.Second),
		}},
	}
}

// said is each check as a person reads it.
func said(checks []*railsrpc.Check) []string {
	marks := map[railsrpc.Verdict]string{railsrpc.Verdict_VERDICT_OK: "ok", railsrpc.Verdict_VERDICT_WARN: "warn", railsrpc.Verdict_VERDICT_FAIL: "FAIL"}
	var all []string
	for _, c := range checks {
		all = append(all, marks[c.GetVerdict()]+" "+c.GetName()+": "+c.GetDetail())
	}
	return all
}

func TestJudge_AHealthyAgent(t *testing.T) {
	require.Equal(t, []string{
		"ok connection: connected for 3h0m: agentk v1.2.3, pod gitlab-agent/agentk-0",
		"ok tunnel: streams: 2 idle, 1 busy",
		"ok round trip: median 2ms, worst 7ms",
		"ok clock: the agent's is 30ms behind kas's, give or take 1ms",
		"ok disconnections: none that kas or agentk know of",
		"ok agentk: runs for 3 days, and dials grpcs://kas.example.com:443",
		"ok API server: v1.34.4 answers agentk within 1.2ms",
		"ok leader: the replica that answered this holds Lease gitlab-agent/agentk-7, renewed 1s ago",
		"ok permissions: all 42 that system:serviceaccount:gitlab-agent:agentk needs",
		"ok configuration: commit 01234567 is in force",
		"ok project: demo/web: Synced, commit fedcba98 applied, reported 1m30s ago",
	}, said(judge(healthy(), nil)))
}

func TestJudge_EachThingThatIsWrongSaysWhatToDo(t *testing.T) {
	for _, row := range []struct {
		name         string
		change       func(*railsrpc.DiagnoseResponse)
		want, advice string
	}{
		{"no stream of the tunnel", func(f *railsrpc.DiagnoseResponse) { f.Kas[0].Streams = nil }, "FAIL tunnel: no stream is open: kas cannot ask the agent anything", "agentk's log"},
		{"nobody who follows the configuration", func(f *railsrpc.DiagnoseResponse) { f.Kas[0].Connections = nil },
			"warn connection: there is the tunnel alone: no replica follows the agent's configuration", "agentk's log"},
		{"a project of which nobody has reported", func(f *railsrpc.DiagnoseResponse) {
			f.Projects[0] = &syncstatus.ProjectStatus{ProjectId: "1", State: syncstatus.State_STATE_OFFLINE}
		}, "warn project: 1: Offline", "when the agent is back"},
		{"all pings are lost", func(f *railsrpc.DiagnoseResponse) {
			f.Kas[0].Pings = &railsrpc.Pings{Sent: 2, Lost: 2, Error: "context deadline exceeded"}
		}, "FAIL round trip: no ping was answered: context deadline exceeded", "restart it"},
		{"a ping is lost", func(f *railsrpc.DiagnoseResponse) { f.Kas[0].Pings.Lost, f.Kas[0].Pings.Error = 1, "x" }, "warn round trip: 1 of 5 pings were lost: x", "loses packets"},
		{"a long way", func(f *railsrpc.DiagnoseResponse) { f.Kas[0].Pings.RttP50 = durationpb.New(1500 * time.Millisecond) }, "warn round trip: median 1.5s, worst 7ms", "network"},
		{"a clock that is ahead", func(f *railsrpc.DiagnoseResponse) { f.Kas[0].Pings.ClockSkew = durationpb.New(6 * time.Second) }, "warn clock: the agent's is 6s ahead of kas's, give or take 1ms", "NTP"},
		{"a clock that is behind", func(f *railsrpc.DiagnoseResponse) { f.Kas[0].Pings.ClockSkew = durationpb.New(-time.Minute) }, "warn clock: the agent's is 1m behind kas's, give or take 1ms", "NTP"},
		{"many disconnections", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.Disconnections = []*agentrpc.Disconnection{ended(time.Minute, time.Second, "reset"), ended(2*time.Minute, time.Second, "x"), ended(3*time.Minute, time.Second, "x")}
		}, "warn disconnections: 3 within an hour, the newest at 2026-11-22T09:59:00Z (1m ago), after 1s: reset", "load balancer"},
		{"an agent that does not answer", func(f *railsrpc.DiagnoseResponse) { f.Agent, f.AgentError = nil, "it has no such service" }, "FAIL agentk: it does not answer: it has no such service", "upgrade it"},
		{"an API server that is away", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.ApiServer = &agentrpc.ApiServer{Error: "connection refused"}
		}, "FAIL API server: connection refused", "kubeconfig"},
		{"an extension that is away", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.ApiServer.FailedApis = []*agentrpc.FailedApi{{GroupVersion: "metrics.k8s.io/v1beta1", Error: "stale"}}
		}, "warn API extension: metrics.k8s.io/v1beta1: stale", "APIService"},
		{"a Lease that nobody holds", func(f *railsrpc.DiagnoseResponse) { f.Agent.Leadership = &agentrpc.Leadership{Lease: "a/b"} }, "FAIL leader: nobody holds Lease a/b", "nothing is synced"},
		{"a Lease of one who is gone", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.Leadership = &agentrpc.Leadership{Lease: "a/b", Holder: "x", RenewedAt: before(time.Minute), Expired: true}
		}, "FAIL leader: x holds Lease a/b, and does not renew it any more, renewed 1m ago", "nothing is synced"},
		{"a Lease that cannot be read", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.Leadership = &agentrpc.Leadership{Lease: "a/b", Error: "forbidden"}
		}, "warn leader: Lease a/b: forbidden", "permissions"},
		{"permissions in all namespaces", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.Permissions.Missing = []*agentrpc.MissingPermission{{Verbs: []string{"list", "watch"}, Resource: "secrets", Purpose: "to sync"}}
		}, "FAIL permission: agentk may not list, watch secrets of the core group in all namespaces, which it needs to sync",
			`add to the rules of a ClusterRole that is bound to system:serviceaccount:gitlab-agent:agentk: - {apiGroups: [""], resources: ["secrets"], verbs: ["list", "watch"]}`},
		{"permissions in one namespace", func(f *railsrpc.DiagnoseResponse) {
			f.Agent.Permissions = &agentrpc.Permissions{Missing: []*agentrpc.MissingPermission{{Verbs: []string{"patch"}, Group: "apps", Resource: "deployments", Namespace: "web", Purpose: "to sync"}}}
		}, "FAIL permission: agentk may not patch deployments of apps in namespace web, which it needs to sync",
			`add to the rules of a Role in namespace web that is bound to agentk's user: - {apiGroups: ["apps"], resources: ["deployments"], verbs: ["patch"]}`},
		{"permissions that could not be asked for", func(f *railsrpc.DiagnoseResponse) { f.Agent.Permissions.Error = "timeout" }, "warn permissions: not all could be looked at: timeout", "log"},
		{"no configuration yet", func(f *railsrpc.DiagnoseResponse) { f.Configuration = nil }, "warn configuration: kas has not read it yet", "connects"},
		{"a mistake in the configuration", func(f *railsrpc.DiagnoseResponse) {
			f.Configuration.Error = &syncstatus.FileError{Path: "config.yaml", Line: 3, Message: "no such key"}
		}, "FAIL configuration: config.yaml:3: no such key", "that of commit 01234567 is in force"},
		{"a project with faults", func(f *railsrpc.DiagnoseResponse) {
			f.Projects[0].State, f.Projects[0].Message = syncstatus.State_STATE_PARTIAL, "1 object failed"
		}, "warn project: demo/web: Partial, commit fedcba98 applied, reported 1m30s ago: 1 object failed", "kasctl status"},
		{"a project that is suspended", func(f *railsrpc.DiagnoseResponse) { f.Projects[0].State = syncstatus.State_STATE_SUSPENDED },
			"warn project: demo/web: Suspended, commit fedcba98 applied, reported 1m30s ago", "kasctl resume"},
		{"another kas that cannot be asked", func(f *railsrpc.DiagnoseResponse) {
			f.Kas = append(f.Kas, &railsrpc.KasView{Url: "grpc://b:1", Error: "no route"})
		}, "warn kas: grpc://b:1: no route", "log"},
	} {
		t.Run(row.name, func(t *testing.T) {
			facts := healthy()
			row.change(facts)
			asked := proto.CloneOf(facts)
			checks := judge(facts, nil)
			require.Contains(t, said(checks), row.want)
			require.True(t, proto.Equal(asked, facts), "facts are left alone")
			for _, c := range checks {
				if c.GetVerdict() == railsrpc.Verdict_VERDICT_OK {
					require.Empty(t, c.GetAdvice(), c.GetDetail())
				} else {
					require.Contains(t, c.GetAdvice(), row.advice)
				}
			}
		})
	}
}

func TestJudge_AnAgentThatIsAway(t *testing.T) {
	for _, row := range []struct {
		name         string
		views        []*railsrpc.KasView
		tokens       *railsrpc.AgentTokens
		want, advice string
	}{
		{"it never came", nil, &railsrpc.AgentTokens{Number: 1}, "FAIL connection: not connected, and never was", "run agentk in the cluster"},
		{"it has no token", nil, &railsrpc.AgentTokens{}, "FAIL connection: not connected, and never was", "create one"},
		{"nothing is known", nil, nil, "FAIL connection: not connected", "run agentk in the cluster"},
		{"kas has forgotten, RoR has not", nil, &railsrpc.AgentTokens{Number: 1, LastUsedAt: before(2 * time.Hour)},
			"FAIL connection: not connected; RoR was asked about its token last at 2026-11-22T08:00:00Z (2h0m ago)", "see in the cluster whether agentk runs"},
		{"one kas knows", []*railsrpc.KasView{{Url: "grpc://a:1", Disconnections: []*agentrpc.Disconnection{ended(time.Minute, time.Hour, "it was killed")}}, {
			Url: "grpc://b:1", Disconnections: []*agentrpc.Disconnection{ended(time.Hour, time.Second, "long ago")},
		}}, &railsrpc.AgentTokens{Number: 1, LastUsedAt: before(2 * time.Hour)},
			"FAIL connection: not connected since 2026-11-22T09:59:00Z (1m ago), after 1h0m: it was killed", "see in the cluster whether agentk runs"},
	} {
		t.Run(row.name, func(t *testing.T) {
			facts := healthy()
			facts.Kas, facts.Agent, facts.AgentError = row.views, nil, "not connected"
			checks := judge(facts, row.tokens)
			require.Equal(t, row.want, said(checks)[0], "what counts comes first")
			require.Contains(t, checks[0].GetAdvice(), row.advice)
			require.Len(t, checks, 3, "nothing else can be known but configuration and projects")
		})
	}
}

func TestJudge_AnAgentThatIsAwayAsFarAsIsKnown(t *testing.T) {
	facts := healthy()
	facts.Kas, facts.Agent = []*railsrpc.KasView{{Url: "grpc://a:1", Error: "which other kas there are cannot be found out now"}}, nil
	require.Equal(t, []string{
		"warn kas: grpc://a:1: which other kas there are cannot be found out now",
		"FAIL connection: not connected, as far as is known: not every kas could be asked",
	}, said(judge(facts, nil))[:2])
}

func TestJudge_DisconnectionsAreCountedByWhoeverSawMore(t *testing.T) {
	facts := healthy()
	facts.Agent.Now = before(-time.Hour) // its clock is an hour ahead, and so are the times that it tells
	facts.Agent.Disconnections = []*agentrpc.Disconnection{ended(-59*time.Minute, time.Second, "the agent's")}
	facts.Kas[0].Disconnections = []*agentrpc.Disconnection{ended(2*time.Minute, time.Second, "kas's"), ended(3*time.Hour, time.Second, "old")}
	require.Contains(t, said(judge(facts, nil)), "ok disconnections: the newest at 2026-11-22T09:59:00Z (1m ago), after 1s: the agent's")
}

func TestWords_AreShort(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": -time.Second, "590µs": 592 * time.Microsecond, "2.6ms": 2613 * time.Microsecond, "1.5s": 1522 * time.Millisecond,
		"1m30s": 90 * time.Second, "5m": 5*time.Minute + 100*time.Millisecond, "30m30s": 30*time.Minute + 30*time.Second, "3h5m": 3*time.Hour + 5*time.Minute + 20*time.Second, "2 days": 50 * time.Hour,
	} {
		require.Equal(t, want, words(d))
	}
}

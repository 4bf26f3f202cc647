package kas

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/program"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		os.Exit(Main())
	}
	goleak.VerifyTestMain(m)
}

var secret = bytes.Repeat([]byte("s"), 32)

// fakeRails is RoR: one agent, one project that it may read, on a Gitaly that is not there
// unless gitaly says where.
type fakeRails struct {
	gitaly string

	mu      sync.Mutex
	updates []*syncstatus.Update
}

func (r *fakeRails) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if jwtauth.Verify(secret, req.Header.Get(gitlabapi.RequestHeader), jwtauth.IssuerKas, jwtauth.AudienceGitlab, time.Now()) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	where := gitlabapi.GitalyInfo{Address: cmp.Or(r.gitaly, "unix:/nowhere/gitaly.socket"), Token: "t"}
	repo := gitlabapi.GitalyRepository{StorageName: "default", RelativePath: "a.git", GlProjectPath: "a/b"}
	good := req.Header.Get("Authorization") == "Bearer good"
	switch {
	case req.URL.Path == gitlabapi.PathSyncStatus:
		body, _ := io.ReadAll(req.Body)
		update := &syncstatus.Update{}
		if protojson.Unmarshal(body, update) == nil {
			r.mu.Lock()
			r.updates = append(r.updates, update)
			r.mu.Unlock()
		}
		w.WriteHeader(http.StatusNoContent)
	case req.URL.Path == gitlabapi.PathAuthorizeProxyUser:
		_ = json.NewEncoder(w).Encode(gitlabapi.ProxyUser{
			Agent: gitlabapi.ConfiguredAgent{ID: 7}, User: gitlabapi.User{ID: 5}, AccessAs: gitlabapi.ProxyAccessAs{Agent: &struct{}{}},
		})
	case req.URL.Path == gitlabapi.PathAgentInfo && good:
		_ = json.NewEncoder(w).Encode(gitlabapi.AgentInfo{ProjectID: 3, AgentID: 7, AgentName: "seven", GitalyInfo: where, GitalyRepository: repo})
	case req.URL.Path == gitlabapi.PathProjectInfo && good && req.URL.Query().Get("id") == "a/b":
		_ = json.NewEncoder(w).Encode(gitlabapi.ProjectInfo{ProjectID: 3, GitalyInfo: where, GitalyRepository: repo})
	case req.URL.Path == gitlabapi.PathAgentInfo:
		w.WriteHeader(http.StatusUnauthorized)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// told is the newest status that RoR has of a project.
func (r *fakeRails) told(project string) *syncstatus.ProjectStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.updates) - 1; i >= 0; i-- {
		if s := r.updates[i].GetStatus(); s.GetProjectId() == project {
			return s
		}
	}
	return nil
}

// running is a kas that runs.
type running struct {
	Addresses
	rails *fakeRails
	// stop ends kas as SIGTERM does and returns what Run returned.
	stop func() error
}

func start(t *testing.T) *running {
	t.Helper()
	return startWith(t, `{address: "127.0.0.1:0"}`)
}

// startWith runs kas with all three listeners configured as listen says.
func startWith(t *testing.T, listen string) *running {
	t.Helper()
	return startEach(t, listen, listen)
}

// startEach runs kas with the agents' listener configured as agent says, and the others as
// listen says.
func startEach(t *testing.T, agent, listen string) *running {
	t.Helper()
	return launch(t, &fakeRails{}, agent, listen, "100ms", nil)
}

// launch runs kas with a RoR, which polls so often.
func launch(t *testing.T, ror *fakeRails, agent, listen, period string, exporter sdktrace.SpanExporter) *running {
	t.Helper()
	r := &running{rails: ror}
	server := httptest.NewServer(r.rails)
	t.Cleanup(server.Close)
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(base64.StdEncoding.EncodeToString(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := load(t, writeConfiguration(t, fmt.Sprintf(`
gitlab: {address: %[1]q, authentication_secret_file: %[2]q}
agent: {listen: %[4]s, configuration: {poll_period: %[5]s}, gitops: {poll_period: %[5]s}}
api: {listen: %[3]s}
observability: {listen: %[3]s}
`, server.URL, secretFile, listen, agent, period)))
	ctx, cancel := context.WithCancel(t.Context())
	listening := make(chan Addresses, 1)
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Configuration: cfg, Log: testkit.Logger(t), Exporter: exporter, Listening: func(a Addresses) { listening <- a }})
	}()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = r.stop() })
	select {
	case r.Addresses = <-listening:
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	return r
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func bearing(t *testing.T, token string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

func asRails(t *testing.T) context.Context {
	t.Helper()
	token, err := jwtauth.Sign(secret, jwtauth.IssuerGitlab, jwtauth.AudienceKas, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return bearing(t, token)
}

func httpGet(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestRun_ServesAgentsAndRailsAndDrains(t *testing.T) {
	kas := start(t)
	agent := dial(t, kas.Agent)
	watch, err := agentrpc.NewAgentConfigurationClient(agent).Watch(bearing(t, "good"),
		&agentrpc.WatchRequest{AgentMeta: &agentrpc.AgentMeta{InstanceId: 5, Version: "v1"}})
	if err != nil {
		t.Fatal(err)
	}
	sync, err := agentrpc.NewSyncClient(agent).Connect(bearing(t, "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sync.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{
		Hello: &agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: "a/b"}},
	}}); err != nil {
		t.Fatal(err)
	}

	tunnel, err := agentrpc.NewReverseTunnelClient(agent).Connect(bearing(t, "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := tunnel.Send(&agentrpc.TunnelResponse{Hello: &agentrpc.TunnelHello{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := tunnel.Header(); err != nil {
		t.Fatal(err)
	}

	api := dial(t, kas.API)
	testkit.Eventually(t, func() error {
		connected, err := railsrpc.NewAgentTrackerClient(api).GetConnectedAgents(asRails(t), &railsrpc.GetConnectedAgentsRequest{})
		if err != nil || len(connected.GetAgents()) != 1 || connected.GetAgents()[0].GetInstanceId() != 5 {
			return fmt.Errorf("connected: %v, %w", connected, err)
		}
		got, err := railsrpc.NewSyncStatusClient(api).Get(asRails(t), &railsrpc.GetRequest{AgentId: 7, ProjectId: "a/b"})
		if err != nil {
			return err
		}
		if p := got.GetStatus(); p.GetState() != syncstatus.State_STATE_PENDING || !p.GetConnected() || !strings.Contains(p.GetMessage(), "Gitaly") {
			return fmt.Errorf("status %v", p)
		}
		if told := kas.rails.told("a/b"); told.GetState() != syncstatus.State_STATE_PENDING || !strings.Contains(told.GetMessage(), "Gitaly") {
			return fmt.Errorf("RoR was told %v", told)
		}
		list, err := railsrpc.NewSyncStatusClient(api).List(asRails(t), &railsrpc.ListRequest{AgentId: 7})
		if err != nil || !strings.Contains(list.GetConfiguration().GetError().GetMessage(), "cannot be read: Gitaly") {
			return fmt.Errorf("list %v, %w", list, err)
		}
		return nil
	})
	if code, body := httpGet(t, "http://"+kas.Observability+"/readiness"); code != http.StatusOK {
		t.Errorf("not ready: %d %s", code, body)
	}
	_, metrics := httpGet(t, "http://"+kas.Observability+"/metrics")
	for _, want := range []string{
		"kas_connected_agents 1", "kas_push_streams 1", `kas_grpc_started_total{method="/agentrpc.Sync/Connect"} 1`,
		`kas_rails_requests_total{code="200",endpoint="/api/v4/internal/kubernetes/agent_info"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}

	stopped := make(chan error, 1)
	go func() { stopped <- kas.stop() }()
	for name, recv := range map[string]func() error{
		"configuration": func() error { _, err := watch.Recv(); return err },
		"sync":          func() error { _, err := sync.Recv(); return err },
		"tunnel":        func() error { _, err := tunnel.Recv(); return err },
	} {
		if err := recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "kas is shutting down") {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
	if err := <-stopped; err != nil {
		t.Errorf("ended with %v", err)
	}
	// That kas went is no news of the agent.
	if told := kas.rails.told("a/b"); told.GetState() == syncstatus.State_STATE_OFFLINE {
		t.Errorf("RoR was told %v", told)
	}
}

func TestRun_RefusesStrangers(t *testing.T) {
	kas := start(t)
	watch, err := agentrpc.NewAgentConfigurationClient(dial(t, kas.Agent)).Watch(bearing(t, "bad"), &agentrpc.WatchRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("agent: got %v", err)
	}
	_, err = railsrpc.NewSyncStatusClient(dial(t, kas.API)).List(bearing(t, "good"), &railsrpc.ListRequest{AgentId: 7})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("API: got %v", err)
	}
	for name, address := range map[string]string{"agent": kas.Agent, "API": kas.API} {
		got, err := grpc_health_v1.NewHealthClient(dial(t, address)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of the %s listener: %v, %v", name, got, err)
		}
	}
}

func TestRun_ListenerIsTaken(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	cfg := DefaultConfiguration()
	cfg.Api.Listen.Address = taken.Addr().String()
	cfg.Agent.Listen.Address = "127.0.0.1:0"
	if _, err := listenAll(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "api.listen.address: ") {
		t.Errorf("got %v", err)
	}
}

func TestCommand_SaysWhatIsWrong(t *testing.T) {
	for name, row := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no configuration": {nil, 2, `kas: required flag(s) "configuration-file" not set (see kas --help)`},
		"an argument":      {[]string{"x"}, 2, `unknown command "x" for "kas"`},
		"a key that does not exist": {
			[]string{"--configuration-file=" + writeConfiguration(t, required+"agentz: {}\n")}, 1, `kas.yaml:4: unknown field "agentz"`,
		},
		"no secret": {
			[]string{"--configuration-file=" + writeConfiguration(t, required)}, 1,
			"kas.yaml:3: gitlab.authentication_secret_file: read secret: open /etc/kas/authentication_secret",
		},
		"a format that does not exist": {
			[]string{"--log-format=x", "--configuration-file=" + writeConfiguration(t, required)}, 2, `--log-format: unknown format "x"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := program.Run(t.Context(), NewCommand(), row.args, &stderr)
			if code != row.code || !strings.Contains(stderr.String(), row.want) || strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("got %d %q, want %d …%s…", code, stderr.String(), row.code, row.want)
			}
		})
	}
}

func TestObserver_PanicCostsOneRPC(t *testing.T) {
	o, err := newObserver(testkit.Logger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/x/Y"}, func(context.Context, any) (any, error) { panic("boom") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "boom") {
		t.Errorf("unary: got %v", err)
	}
	err = o.stream(nil, nil, &grpc.StreamServerInfo{FullMethod: "/x/Z"}, func(any, grpc.ServerStream) error { panic(errors.New("boom")) })
	if status.Code(err) != codes.Internal {
		t.Errorf("stream: got %v", err)
	}
}

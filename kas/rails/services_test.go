package rails

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/api/syncstatus"
	"github.com/kas-agentk/kas/internal/jwtauth"
	"github.com/kas-agentk/kas/internal/testkit"
)

// knowing answers for kas/agents and kas/status.
type knowing struct{}

func (knowing) Connected(_ context.Context, ids []int64, projectID *int64) []*railsrpc.ConnectedAgent {
	var all []*railsrpc.ConnectedAgent
	for _, id := range ids {
		all = append(all, &railsrpc.ConnectedAgent{AgentId: id})
	}
	if projectID != nil {
		all = append(all, &railsrpc.ConnectedAgent{ProjectId: *projectID})
	}
	return all
}

func (knowing) Get(_ context.Context, agentID int64, projectID string) (*syncstatus.ProjectStatus, bool) {
	return &syncstatus.ProjectStatus{AgentId: agentID, ProjectId: projectID}, projectID == "a/b"
}

func (knowing) List(_ context.Context, agentID int64) ([]*syncstatus.ProjectStatus, *syncstatus.ConfigurationStatus) {
	return []*syncstatus.ProjectStatus{{AgentId: agentID}}, &syncstatus.ConfigurationStatus{CommitId: "c"}
}

func (knowing) Watch(ctx context.Context, agentID int64, projectID string, send func(*syncstatus.ProjectStatus) error) error {
	if err := send(&syncstatus.ProjectStatus{AgentId: agentID, ProjectId: projectID}); err != nil {
		return err
	}
	if projectID == "ends" {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// serve starts kas's side and returns RoR's connection.
func serve(t *testing.T) *grpc.ClientConn {
	t.Helper()
	auth := NewAuth(secret, clock.RealClock{})
	return serveWith(t, func(server *grpc.Server) {
		RegisterServices(server, knowing{}, knowing{}, knowing{})
		grpc_health_v1.RegisterHealthServer(server, health.NewServer())
		reflection.Register(server)
	}, grpc.UnaryInterceptor(auth.Unary), grpc.StreamInterceptor(auth.Stream))
}

// serveWith starts a server and returns a connection to it.
func serveWith(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(append(options, grpc.WaitForHandlers(true))...)
	register(server)
	listener := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- testkit.Serve(server, listener) }()
	conn, err := grpc.NewClient("passthrough:kas",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func bearing(t *testing.T, token string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

func asRails(t *testing.T) context.Context {
	t.Helper()
	return bearing(t, sign(t, secret, "gitlab", "gitlab-kas", time.Now()))
}

func sign(t *testing.T, secret []byte, issuer, audience string, now time.Time) string {
	t.Helper()
	token, err := jwtauth.Sign(secret, issuer, audience, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestServices_Answer(t *testing.T) {
	conn := serve(t)
	ctx := asRails(t)
	three := int64(3)
	agents, err := railsrpc.NewAgentTrackerClient(conn).GetConnectedAgents(ctx, &railsrpc.GetConnectedAgentsRequest{AgentIds: []int64{1}, ProjectId: &three})
	if err != nil || len(agents.GetAgents()) != 2 {
		t.Errorf("got %v, %v", agents, err)
	}
	client := railsrpc.NewSyncStatusClient(conn)
	got, err := client.Get(ctx, &railsrpc.GetRequest{AgentId: 7, ProjectId: "a/b"})
	if err != nil || got.GetStatus().GetAgentId() != 7 {
		t.Errorf("got %v, %v", got, err)
	}
	list, err := client.List(ctx, &railsrpc.ListRequest{AgentId: 7})
	want := &railsrpc.ListResponse{Statuses: []*syncstatus.ProjectStatus{{AgentId: 7}}, Configuration: &syncstatus.ConfigurationStatus{CommitId: "c"}}
	if diff := cmp.Diff(want, list, protocmp.Transform()); err != nil || diff != "" {
		t.Error(err, diff)
	}
	watch, err := client.Watch(ctx, &railsrpc.WatchRequest{AgentId: 7, ProjectId: "ends"})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus().GetProjectId() != "ends" {
		t.Errorf("got %v, %v", first, err)
	}
	if _, err := watch.Recv(); err != io.EOF { //nolint:errorlint // gRPC returns it bare
		t.Errorf("got %v", err)
	}
}

func TestServices_RefuseBadRequests(t *testing.T) {
	conn := serve(t)
	ctx := asRails(t)
	client := railsrpc.NewSyncStatusClient(conn)
	for name, row := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"no agent": {func() error {
			_, err := client.Get(ctx, &railsrpc.GetRequest{ProjectId: "a/b"})
			return err
		}, codes.InvalidArgument},
		"no project": {func() error {
			_, err := client.Get(ctx, &railsrpc.GetRequest{AgentId: 7})
			return err
		}, codes.InvalidArgument},
		"a project that the agent does not follow": {func() error {
			_, err := client.Get(ctx, &railsrpc.GetRequest{AgentId: 7, ProjectId: "x"})
			return err
		}, codes.NotFound},
		"a list of no agent": {func() error {
			_, err := client.List(ctx, &railsrpc.ListRequest{})
			return err
		}, codes.InvalidArgument},
		"a watch of no agent": {func() error {
			watch, err := client.Watch(ctx, &railsrpc.WatchRequest{})
			if err == nil {
				_, err = watch.Recv()
			}
			return err
		}, codes.InvalidArgument},
		"too many agents": {func() error {
			_, err := railsrpc.NewAgentTrackerClient(conn).GetConnectedAgents(ctx, &railsrpc.GetConnectedAgentsRequest{AgentIds: make([]int64, maxAgentsAsked+1)})
			return err
		}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if err := row.call(); status.Code(err) != row.want {
				t.Errorf("got %v, want %s", err, row.want)
			}
		})
	}
}

func TestAuth_LetsInOnlyRails(t *testing.T) {
	conn := serve(t)
	client := railsrpc.NewSyncStatusClient(conn)
	for name, ctx := range map[string]context.Context{
		"no token":             t.Context(),
		"not a token":          bearing(t, "x"),
		"another secret":       bearing(t, sign(t, []byte("another secret of thirty-two byt"), "gitlab", "gitlab-kas", time.Now())),
		"kas's own token":      bearing(t, sign(t, secret, "gitlab-kas", "gitlab", time.Now())),
		"another audience":     bearing(t, sign(t, secret, "gitlab", "gitlab", time.Now())),
		"a token of yesterday": bearing(t, sign(t, secret, "gitlab", "gitlab-kas", time.Now().Add(-24*time.Hour))),
		"a token of tomorrow":  bearing(t, sign(t, secret, "gitlab", "gitlab-kas", time.Now().Add(24*time.Hour))),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client.List(ctx, &railsrpc.ListRequest{AgentId: 7}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("unary: got %v", err)
			}
			watch, err := client.Watch(ctx, &railsrpc.WatchRequest{AgentId: 7})
			if err == nil {
				_, err = watch.Recv()
			}
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("stream: got %v", err)
			}
		})
	}
}

func TestAuth_HealthAndReflectionAreOpen(t *testing.T) {
	conn := serve(t)
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	info, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := info.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	answer, err := info.Recv()
	if err != nil || len(answer.GetListServicesResponse().GetService()) < 4 {
		t.Errorf("got %v, %v", answer, err)
	}
	if err := info.CloseSend(); err != nil {
		t.Error(err)
	}
}

func TestAuth_ATokenFoundGoodIsCheckedAgainSoon(t *testing.T) {
	now := clocktesting.NewFakeClock(time.Now())
	auth := NewAuth(secret, now)
	call := func(token string) codes.Code {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
		_, err := auth.Unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/s/m"}, func(context.Context, any) (any, error) { return nil, nil })
		return status.Code(err)
	}
	good := sign(t, secret, "gitlab", "gitlab-kas", now.Now())
	for range 2 {
		if code := call(good); code != codes.OK {
			t.Fatal(code)
		}
	}
	if code := call(good[:len(good)-2] + "xx"); code != codes.Unauthenticated {
		t.Errorf("got %s for a token that is like the last", code)
	}
	now.Step(jwtauth.Lifetime + 6*time.Second)
	if code := call(good); code != codes.Unauthenticated {
		t.Errorf("got %s for an old token", code)
	}
}

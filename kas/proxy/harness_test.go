package proxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/gitlabapi"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const allowedOrigin = "https://gitlab.example.com"

// fakeRoR knows the personal access token "good" and the session "session" with the CSRF
// token "csrf", of user 5, and the job token "job", of job 1, all for agent 7.
type fakeRoR struct {
	mu    sync.Mutex
	asked int
	// err is what it answers; nil: it knows.
	err error
	// gate, unless nil, is what each answer waits for.
	gate chan struct{}
	knowledge
}

// knowledge is what RoR answers by.
type knowledge struct {
	// as is as whom a person reaches the cluster.
	as gitlabapi.ProxyAccessAs
	// configuration by which the job reaches it.
	configuration string
	// agent it answers about; zero: that which was asked about.
	agent int64
}

func (f *fakeRoR) ask() (knowledge, error) {
	f.mu.Lock()
	f.asked++
	now, err, gate := f.knowledge, f.err, f.gate
	f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return now, err
}

func (f *fakeRoR) AuthorizeProxyUser(_ context.Context, r gitlabapi.ProxyUserRequest) (gitlabapi.ProxyUser, error) {
	now, err := f.ask()
	good := (r.AccessType == gitlabapi.AccessPersonalToken && r.AccessKey == "good") ||
		(r.AccessType == gitlabapi.AccessSessionCookie && r.AccessKey == "session" && r.CSRFToken == "csrf")
	if err == nil && !good {
		err = gitlabapi.ErrUnauthorized
	}
	if now.agent == 0 {
		now.agent = r.AgentID
	}
	return gitlabapi.ProxyUser{
		Agent: gitlabapi.ConfiguredAgent{ID: now.agent, ConfigProject: gitlabapi.Numbered{ID: 3}},
		User:  gitlabapi.User{ID: 5, Username: "alice"}, AccessAs: now.as,
	}, err
}

func (f *fakeRoR) AllowedAgents(_ context.Context, token string) (gitlabapi.AllowedAgents, error) {
	now, err := f.ask()
	if err == nil && token != "job" {
		err = gitlabapi.ErrUnauthorized
	}
	return gitlabapi.AllowedAgents{
		AllowedAgents: []gitlabapi.AllowedAgent{{ID: 7, ConfigProject: gitlabapi.Numbered{ID: 3}, Configuration: json.RawMessage(now.configuration)}},
		Job:           gitlabapi.Numbered{ID: 1}, Pipeline: gitlabapi.Numbered{ID: 2},
		Project: gitlabapi.JobProject{ID: 4, Groups: []gitlabapi.Numbered{{ID: 8}, {ID: 9}}},
		User:    gitlabapi.User{ID: 5, Username: "alice"},
	}, err
}

func (f *fakeRoR) change(change func(*fakeRoR)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeRoR) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

type (
	agentStream = grpc.BidiStreamingServer[agentrpc.HttpRequest, agentrpc.HttpResponse]
	// agentFunc plays an agent.
	agentFunc func(agentStream) error
)

// fakeAgents has agent 7, until it is taken away.
type fakeAgents struct {
	conn grpc.ClientConnInterface
}

// Conn implements Agents. Agent 8 cannot be reached; agents 9 and 11 make their callers wait.
func (f *fakeAgents) Conn(agentID int64) grpc.ClientConnInterface {
	if agentID == 7 {
		return f.conn
	}
	return away(agentID)
}

type away int64

func (a away) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return errors.New("nobody calls this")
}

func (a away) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if a == 9 || a == 11 {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return nil, status.Errorf(codes.Unavailable, "agent %d is not connected", int64(a))
}

// fakePresence has agents connected but for some.
type fakePresence struct{ others map[int64]Standing }

func (f fakePresence) Of(_ context.Context, agentID int64) Standing {
	if standing, ok := f.others[agentID]; ok {
		return standing
	}
	return Connected
}

// harness is a proxy that runs, with an agent that a test plays.
type harness struct {
	t       testing.TB
	ror     *fakeRoR
	clock   *clocktesting.FakeClock
	metrics *prometheus.Registry
	server  *Server
	limiter *fakeLimiter
	url     string // without a slash at its end
	address string
	client  *http.Client
	ran     chan error
	// drain ends Run's context.
	drain context.CancelFunc
}

type fakeLimiter struct {
	mu    sync.Mutex
	full  bool
	asked []string
}

func (f *fakeLimiter) Allow(_ context.Context, key string) (bool, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, key)
	return !f.full, 1500 * time.Millisecond
}

func start(tb testing.TB, agent agentFunc, change ...func(*Config)) *harness {
	tb.Helper()
	h := &harness{
		t: tb, ror: &fakeRoR{knowledge: knowledge{as: gitlabapi.ProxyAccessAs{Agent: &struct{}{}}}}, clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0)),
		metrics: prometheus.NewRegistry(), limiter: &fakeLimiter{}, ran: make(chan error, 1),
	}
	cfg := Config{AllowedOrigins: []string{allowedOrigin}, TTL: time.Minute, ErrorTTL: 10 * time.Second, Clock: h.clock}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	h.server, err = NewServer(cfg, Collaborators{
		RoR: h.ror, Agents: &fakeAgents{conn: serveAgent(tb, agent)}, Presence: fakePresence{map[int64]Standing{10: Absent, 11: Expected}}, Limiter: h.limiter, Registerer: h.metrics, Log: testkit.Logger(tb),
	})
	require.NoError(tb, err)
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	h.address = l.Addr().String()
	h.url = "http://" + h.address + "/k8s-proxy"
	transport := &http.Transport{DisableCompression: true}
	if cfg.TLS != nil {
		h.url = "https://" + h.address + "/k8s-proxy"
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		transport.ForceAttemptHTTP2 = true
	}
	h.client = &http.Client{Transport: transport}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	h.drain = cancel
	go func() { h.ran <- h.server.Run(ctx, l) }()
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		h.stop()
	})
	return h
}

// stop ends Run, and waits for it.
func (h *harness) stop() {
	h.t.Helper()
	h.drain()
	err := <-h.ran
	h.ran <- err
	require.NoError(h.t, err)
}

// serveAgent is a connection to an agent.
func serveAgent(tb testing.TB, agent agentFunc) grpc.ClientConnInterface {
	tb.Helper()
	server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(4<<20))
	agentrpc.RegisterKubernetesApiServer(server, &fakeAgent{do: agent})
	listener := bufconn.Listen(64 << 10)
	var g errgroup.Group
	g.Go(func() error { return testkit.Serve(server, listener) })
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(tb, err)
	tb.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		require.NoError(tb, g.Wait())
	})
	return conn
}

type fakeAgent struct {
	agentrpc.UnimplementedKubernetesApiServer
	do agentFunc
}

func (f *fakeAgent) Do(stream agentStream) error { return f.do(stream) }

// answering plays an agent that answers every request with a head, and data.
func answering(code int, data ...string) agentFunc {
	return func(stream agentStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		return respond(stream, code, data...)
	}
}

func respond(stream agentStream, code int, data ...string) error {
	if err := stream.Send(&agentrpc.HttpResponse{Head: &agentrpc.HttpResponseHead{Status: int32(code)}}); err != nil {
		return err
	}
	for _, d := range data {
		if err := stream.Send(&agentrpc.HttpResponse{Data: []byte(d)}); err != nil {
			return err
		}
	}
	return nil
}

// noting plays an agent that notes each request's head.
func noting(heads chan<- *agentrpc.HttpRequestHead) agentFunc {
	return func(stream agentStream) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		heads <- first.GetHead()
		return respond(stream, 200, "{}")
	}
}

// request makes one that bears a good token, unless headers say otherwise.
func (h *harness) request(method, path string, body io.Reader, headers ...string) *http.Request {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, body)
	require.NoError(h.t, err)
	r.Header.Set("Authorization", "Bearer pat:7:good")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// reply is the head of an answer.
type reply struct {
	StatusCode, ProtoMajor int
	ContentLength          int64
	Header                 http.Header
}

// do makes a request and returns its answer, whole.
func (h *harness) do(r *http.Request) (reply, string) {
	h.t.Helper()
	response, err := h.client.Do(r)
	require.NoError(h.t, err)
	return whole(h.t, response)
}

// whole reads an answer to its end.
func whole(tb testing.TB, response *http.Response) (reply, string) {
	tb.Helper()
	body, err := io.ReadAll(response.Body)
	require.NoError(tb, err)
	require.NoError(tb, response.Body.Close())
	return reply{response.StatusCode, response.ProtoMajor, response.ContentLength, response.Header}, string(body)
}

// get is do of a simple request.
func (h *harness) get(path string, headers ...string) (reply, string) {
	h.t.Helper()
	return h.do(h.request(http.MethodGet, path, nil, headers...))
}

// refused makes sure that an answer is kas's own, and says so as Kubernetes does.
func refused(tb testing.TB, response reply, body string, code int, part string) {
	tb.Helper()
	require.Equal(tb, code, response.StatusCode, body)
	var s metav1.Status
	require.NoError(tb, json.Unmarshal([]byte(body), &s), body)
	require.Equal(tb, "Status", s.Kind)
	require.Equal(tb, "v1", s.APIVersion)
	require.Equal(tb, metav1.StatusFailure, s.Status)
	require.EqualValues(tb, code, s.Code)
	require.True(tb, strings.HasPrefix(s.Message, "kas: "), s.Message)
	require.Contains(tb, s.Message, part)
	require.Equal(tb, "application/json", response.Header.Get("Content-Type"))
}

// value of a metric that has these label values.
func (h *harness) value(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.metrics.Gather()
	require.NoError(h.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var has []string
			for _, label := range m.GetLabel() {
				has = append(has, label.GetValue())
			}
			if family.GetName() == name && strings.Join(has, " ") == strings.Join(labels, " ") {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// quiet waits until no request is running.
func (h *harness) quiet() {
	h.t.Helper()
	testkit.Eventually(h.t, func() error {
		if n := h.value("kas_proxy_requests_running"); n != 0 {
			return fmt.Errorf("%v requests are running", n)
		}
		return nil
	})
}

// certificate returns a TLS configuration of a server.
func certificate() *tls.Config {
	web := httptest.NewTLSServer(nil)
	web.Close()
	return &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
}

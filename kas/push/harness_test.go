package push_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/kas-agentk/kas/api/agentcfg"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/push"
	"github.com/kas-agentk/kas/manifests"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	started  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	detected = started.Add(-time.Second)
)

// harness is a push server over an in-memory network, and those it works with.
type harness struct {
	t        *testing.T
	repo     *repository
	ror      *ror
	board    *board
	clock    *clocktesting.FakeClock
	metrics  *prometheus.Registry
	log      *observer.ObservedLogs
	listener *bufconn.Listener
	server   *push.Server
	stop     context.CancelFunc
}

func start(t *testing.T, change ...func(*push.Config)) *harness {
	t.Helper()
	h := &harness{
		t: t, repo: newRepository(), ror: &ror{path: "@hashed/a.git", bell: make(chan struct{})}, board: newBoard(),
		clock: clocktesting.NewFakeClock(started), metrics: prometheus.NewRegistry(), listener: bufconn.Listen(1 << 16),
	}
	var observed zapcore.Core
	observed, h.log = observer.New(zapcore.InfoLevel)
	log := testkit.Logger(t).WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return zapcore.NewTee(core, observed) }))
	config := push.DefaultConfig()
	config.Clock = h.clock
	for _, c := range change {
		c(&config)
	}
	server := push.NewServer(config, push.Collaborators{
		Access: h.ror, Source: h.repo, Status: h.board, Registerer: h.metrics, Log: log,
	})
	h.server = server
	rpc := grpc.NewServer(grpc.WaitForHandlers(true))
	agentrpc.RegisterSyncServer(rpc, server)
	ctx, stop := context.WithCancel(t.Context())
	h.stop = stop
	var g errgroup.Group
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return testkit.Serve(rpc, h.listener) })
	t.Cleanup(func() {
		stop()
		rpc.Stop()
		if err := g.Wait(); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return h
}

// agent is an agent's end of a stream.
type agent struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[agentrpc.ConnectRequest, agentrpc.ConnectResponse]
	held   map[manifests.Digest]struct{}
}

// dial opens a stream as the bearer of token.
func (h *harness) dial(token string) *agent {
	h.t.Helper()
	conn, err := grpc.NewClient("passthrough:///kas", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return h.listener.DialContext(ctx) }))
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	ctx := h.t.Context()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	stream, err := agentrpc.NewSyncClient(conn).Connect(ctx)
	require.NoError(h.t, err)
	return &agent{t: h.t, stream: stream, held: map[manifests.Digest]struct{}{}}
}

// connect opens a stream with a plain Hello, for agent number id.
func (h *harness) connect(id int) *agent {
	h.t.Helper()
	a := h.dial(fmt.Sprint("agent-", id))
	a.hello(&agentrpc.Hello{Project: &agentcfg.ManifestProject{Id: projectPath}, Capabilities: capabilities})
	return a
}

// capabilities of today's agentk.
var capabilities = []agentrpc.Capability{agentrpc.Capability_CAPABILITY_COMMANDS, agentrpc.Capability_CAPABILITY_COMPARISONS}

func (a *agent) hello(hello *agentrpc.Hello) {
	a.t.Helper()
	err := a.stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Hello{Hello: hello}})
	if !errors.Is(err, io.EOF) { // the stream has ended already, and ending says why
		require.NoError(a.t, err)
	}
}

func (a *agent) report(report *agentrpc.Report) {
	a.t.Helper()
	require.NoError(a.t, a.stream.Send(&agentrpc.ConnectRequest{Message: &agentrpc.ConnectRequest_Report{Report: report}}))
}

// set is a whole set as it came over the stream.
type set struct {
	header  *agentrpc.Header
	fresh   []string // JSON of the objects that came along
	refs    []string // "path:line"
	digests [][]byte
	trailer *agentrpc.Trailer
	largest int // bytes of the largest message
}

// receive reads one whole set as an agent does, and checks the contract.
func (a *agent) receive() set {
	a.t.Helper()
	var s set
	listed := map[manifests.Digest]struct{}{}
	for s.trailer == nil {
		response, err := a.stream.Recv()
		require.NoError(a.t, err)
		s.largest = max(s.largest, protoSize(response))
		switch m := response.GetMessage().(type) {
		case *agentrpc.ConnectResponse_Header:
			require.Nil(a.t, s.header, "one header for each set")
			s.header = m.Header
		case *agentrpc.ConnectResponse_Objects:
			for _, o := range m.Objects.GetObjects() {
				digest := manifests.Digest(sha256.Sum256(o.GetJson()))
				require.Equal(a.t, digest[:], o.GetDigest())
				require.NotContains(a.t, a.held, digest, "an object that the agent holds came again")
				a.held[digest] = struct{}{}
				s.fresh = append(s.fresh, string(o.GetJson()))
			}
		case *agentrpc.ConnectResponse_Refs:
			for _, r := range m.Refs.GetRefs() {
				digest := manifests.Digest(r.GetDigest())
				require.Contains(a.t, a.held, digest, "an object is listed that the agent does not hold")
				listed[digest] = struct{}{}
				s.digests = append(s.digests, r.GetDigest())
				s.refs = append(s.refs, fmt.Sprintf("%s:%d", r.GetSourcePath(), r.GetSourceLine()))
			}
		case *agentrpc.ConnectResponse_Trailer:
			s.trailer = m.Trailer
		}
	}
	require.NotNil(a.t, s.header)
	require.Len(a.t, s.refs, int(s.trailer.GetRefsCount()))
	a.held = listed // the rule: exactly what the last whole set lists
	return s
}

// ending reads until the stream ends, and returns why.
func (a *agent) ending() error {
	a.t.Helper()
	for {
		if _, err := a.stream.Recv(); err != nil {
			return err
		}
	}
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  key: %q\n", name, value)
}

package kubeapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Server in front of an API server that the test plays.
type rig struct {
	t       testing.TB
	server  *Server
	metrics *prometheus.Registry
	client  agentrpc.KubernetesApiClient
	config  *rest.Config
}

type option func(*httptest.Server, *rest.Config)

// overTLS has the API server speak TLS, and HTTP/2.
func overTLS(api *httptest.Server, cfg *rest.Config) {
	api.EnableHTTP2 = true
	api.StartTLS()
	cfg.Host = api.URL
	cfg.CAData = certificateOf(api)
}

func start(tb testing.TB, handler http.HandlerFunc, options ...option) *rig {
	tb.Helper()
	r := &rig{t: tb, metrics: prometheus.NewRegistry(), config: &rest.Config{BearerToken: "agents-own", UserAgent: "agentk/test"}}
	api := httptest.NewUnstartedServer(handler)
	tb.Cleanup(api.Close)
	for _, o := range options {
		o(api, r.config)
	}
	if api.URL == "" {
		api.Start()
	}
	if r.config.Host == "" {
		r.config.Host = api.URL
	}
	var err error
	r.server, err = NewServer(Config{RESTConfig: r.config, Registerer: r.metrics})
	require.NoError(tb, err)
	tb.Cleanup(r.server.Close)
	r.client = agentrpc.NewKubernetesApiClient(serve(tb, r.server))
	return r
}

// serve returns a connection to a gRPC server that has s.
func serve(tb testing.TB, s *Server) *grpc.ClientConn {
	tb.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.ForceServerCodecV2(copying{grpctool.RawCodec()}))
	agentrpc.RegisterKubernetesApiServer(server, s)
	var g errgroup.Group
	g.Go(func() error { return testkit.Serve(server, listener) })
	conn, err := grpc.NewClient("passthrough:///agentk", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(tb, err)
	tb.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		require.NoError(tb, g.Wait())
	})
	return conn
}

// copying lets a message be used again when it has been sent, as the tunnel does.
type copying struct{ encoding.CodecV2 }

func (c copying) Marshal(message any) (mem.BufferSlice, error) {
	data, err := c.CodecV2.Marshal(message)
	if err != nil {
		return nil, err
	}
	defer data.Free()
	return mem.BufferSlice{mem.SliceBuffer(data.Materialize())}, nil
}

// call is one request of the test's.
type call struct {
	t      testing.TB
	stream grpc.BidiStreamingClient[agentrpc.HttpRequest, agentrpc.HttpResponse]
	// cancel leaves.
	cancel context.CancelFunc
	rest   []byte
}

// begin begins a request.
func (r *rig) begin(head *agentrpc.HttpRequestHead) *call {
	r.t.Helper()
	if head.Method == "" {
		head.Method = http.MethodGet
	}
	if head.Url == "" {
		head.Url = "/x"
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	r.t.Cleanup(cancel)
	stream, err := r.client.Do(ctx)
	require.NoError(r.t, err)
	c := &call{t: r.t, stream: stream, cancel: cancel}
	require.NoError(r.t, stream.Send(&agentrpc.HttpRequest{Head: head}))
	return c
}

func (c *call) send(data string) {
	c.t.Helper()
	require.NoError(c.t, c.stream.Send(&agentrpc.HttpRequest{Data: []byte(data)}))
}

// head waits for the head of the answer.
func (c *call) head() *agentrpc.HttpResponseHead {
	c.t.Helper()
	first, err := c.stream.Recv()
	require.NoError(c.t, err)
	require.NotNil(c.t, first.GetHead())
	c.rest = first.GetData()
	return first.GetHead()
}

// Read implements io.Reader.
func (c *call) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if err != nil {
			return 0, err
		}
		c.rest = m.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// expect waits for exactly these bytes.
func (c *call) expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(c, got)
	require.NoError(c.t, err)
	require.Equal(c.t, want, string(got))
}

// get makes a request without a body.
func (r *rig) get(head *agentrpc.HttpRequestHead) (status int32, header http.Header, body string, err error) {
	r.t.Helper()
	head.ContentLength = proto.Int64(0)
	c := r.begin(head)
	require.NoError(r.t, c.stream.CloseSend())
	first, err := c.stream.Recv()
	if err != nil {
		return 0, nil, "", err
	}
	c.rest = first.GetData()
	var all bytes.Buffer
	if _, err = all.ReadFrom(c); errors.Is(err, io.EOF) {
		err = nil
	}
	return first.GetHead().GetStatus(), headerOf(first.GetHead()), all.String(), err
}

func headerOf(head *agentrpc.HttpResponseHead) http.Header {
	h := http.Header{}
	for _, x := range head.GetHeaders() {
		h[x.GetName()] = x.GetValues()
	}
	return h
}

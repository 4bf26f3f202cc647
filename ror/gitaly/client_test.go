package gitaly_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/internal/tracing"
	"github.com/kas-agentk/kas/ror/gitaly"
	"github.com/kas-agentk/kas/ror/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "secret"

// server is Gitaly's end, for what a real one does only in bad moments; the rest is
// tried with a real one, end to end.
type server struct {
	gitalypb.UnimplementedRepositoryServiceServer
	gitalypb.UnimplementedSmartHTTPServiceServer

	mu      sync.Mutex
	created map[string]string // relative path -> default branch
	// receive is how a push goes.
	receive func(gitalypb.SmartHTTPService_PostReceivePackServer) error
}

func (s *server) CreateRepository(_ context.Context, req *gitalypb.CreateRepositoryRequest) (*gitalypb.CreateRepositoryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := req.GetRepository().GetRelativePath()
	if _, there := s.created[path]; there {
		return nil, status.Error(codes.AlreadyExists, "creating repository: repository exists already")
	}
	s.created[path] = string(req.GetDefaultBranch())
	return &gitalypb.CreateRepositoryResponse{}, nil
}

func (s *server) InfoRefsReceivePack(req *gitalypb.InfoRefsRequest, stream gitalypb.SmartHTTPService_InfoRefsReceivePackServer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.created[req.GetRepository().GetRelativePath()]; !there {
		return status.Error(codes.NotFound, "no such repository")
	}
	return stream.Send(&gitalypb.InfoRefsResponse{Data: []byte("refs, " + req.GetGitProtocol())})
}

func (s *server) PostReceivePack(stream gitalypb.SmartHTTPService_PostReceivePackServer) error {
	return s.receive(stream)
}

func start(t *testing.T) (*server, *gitaly.Client) {
	t.Helper()
	s := &server{created: map[string]string{}}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	check := func(ctx context.Context) error {
		values := metadata.ValueFromIncomingContext(ctx, "authorization")
		if len(values) != 1 || !strings.HasPrefix(values[0], "Bearer v2.") {
			return status.Error(codes.Unauthenticated, "no v2 token")
		}
		return nil
	}
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := check(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := check(stream.Context()); err != nil {
				return err
			}
			return next(srv, stream)
		}))
	gitalypb.RegisterRepositoryServiceServer(srv, s)
	gitalypb.RegisterSmartHTTPServiceServer(srv, s)
	done := make(chan error, 1)
	go func() { done <- testkit.Serve(srv, l) }()
	c, err := gitaly.NewClient(gitaly.Config{Address: "tcp://" + l.Addr().String(), Token: token, Storage: "default"})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		srv.Stop()
		require.NoError(t, <-done)
	})
	return s, c
}

var (
	project = registry.Project{ID: 7, FullPath: "a/b", DefaultBranch: "trunk"}
	user    = registry.User{ID: 3, Username: "ada"}
)

func TestNewClient_RefusesAddressesThatAreNone(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:8075", "http://127.0.0.1:8075", "tcp://127.0.0.1"} {
		_, err := gitaly.NewClient(gitaly.Config{Address: address})
		require.ErrorContains(t, err, "want tcp://HOST:PORT", address)
	}
	for _, address := range []string{"tcp://127.0.0.1:8075", "tls://gitaly:8075", "unix:/run/gitaly.socket"} {
		c, err := gitaly.NewClient(gitaly.Config{Address: address})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
}

func TestCreate_TwiceIsNoError(t *testing.T) {
	s, c := start(t)
	require.NoError(t, c.Create(t.Context(), project))
	require.NoError(t, c.Create(t.Context(), project))
	require.Equal(t, map[string]string{project.RelativePath(): "trunk"}, s.created)
}

func TestInfoRefs_MakesARepositoryThatIsMissing(t *testing.T) {
	_, c := start(t)
	var b bytes.Buffer
	require.NoError(t, c.InfoRefs(t.Context(), project, gitaly.ReceivePack, "version=2", &b))
	require.Equal(t, "refs, version=2", b.String())
}

func TestInfoRefs_SaysThatGitalyIsAway(t *testing.T) {
	c, err := gitaly.NewClient(gitaly.Config{Address: "tcp://127.0.0.1:1", Token: token}) // where nothing listens
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.ErrorIs(t, c.InfoRefs(t.Context(), project, gitaly.UploadPack, "", io.Discard), gitaly.ErrUnavailable)
}

func TestReceivePack_CarriesBothWays(t *testing.T) {
	s, c := start(t)
	s.receive = func(stream gitalypb.SmartHTTPService_PostReceivePackServer) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		if first.GetGlId() != "user-3" || first.GetGlUsername() != "ada" || first.GetGlRepository() != "project-7" || first.GetData() != nil {
			return status.Errorf(codes.InvalidArgument, "first message %v", first)
		}
		n := 0
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			n += len(m.GetData())
		}
		if n != 1<<20 {
			return status.Errorf(codes.DataLoss, "%d bytes", n)
		}
		return stream.Send(&gitalypb.PostReceivePackResponse{Data: []byte("unpack ok")})
	}
	var out bytes.Buffer
	err := c.ReceivePack(t.Context(), project, user, gitaly.Exchange{
		In: strings.NewReader(strings.Repeat("x", 1<<20)), Out: &out, StopReading: func() { t.Error("nothing to stop") },
	})
	require.NoError(t, err)
	require.Equal(t, "unpack ok", out.String())
}

func TestReceivePack_DoesNotWaitForAClientWhenGitalyIsDone(t *testing.T) {
	for name, end := range map[string]error{
		"it has answered": nil,
		"it has failed":   status.Error(codes.Unavailable, "exit status 128"),
	} {
		t.Run(name, func(t *testing.T) {
			s, c := start(t)
			s.receive = func(stream gitalypb.SmartHTTPService_PostReceivePackServer) error {
				if _, err := stream.Recv(); err != nil {
					return err
				}
				return end
			}
			in, client := io.Pipe() // the client never sends anything
			defer func() { require.NoError(t, client.Close()) }()
			err := c.ReceivePack(t.Context(), project, user, gitaly.Exchange{
				In: in, Out: io.Discard, StopReading: func() { _ = in.CloseWithError(errors.New("stopped")) },
			})
			require.Equal(t, end == nil, err == nil, "%v", err)
		})
	}
}

func TestReceivePack_EndsWhenTheClientBreaksOff(t *testing.T) {
	s, c := start(t)
	ended := make(chan struct{})
	s.receive = func(stream gitalypb.SmartHTTPService_PostReceivePackServer) error {
		defer close(ended)
		for {
			if _, err := stream.Recv(); err != nil {
				return err
			}
		}
	}
	broken := errors.New("connection reset")
	in, client := io.Pipe()
	require.NoError(t, client.CloseWithError(broken))
	err := c.ReceivePack(t.Context(), project, user, gitaly.Exchange{In: in, Out: io.Discard, StopReading: func() {}})
	require.ErrorIs(t, err, broken)
	<-ended
}

func TestReceivePack_TellsTheHooksOfItsTrace(t *testing.T) {
	s, c := start(t)
	told := make(chan []string, 1)
	s.receive = func(stream gitalypb.SmartHTTPService_PostReceivePackServer) error {
		told <- metadata.ValueFromIncomingContext(stream.Context(), "x-gitlab-correlation-id")
		return nil
	}
	push := func(ctx context.Context) []string {
		t.Helper()
		x := gitaly.Exchange{In: strings.NewReader(""), Out: io.Discard, StopReading: func() {}}
		require.NoError(t, c.ReceivePack(ctx, project, user, x))
		return <-told
	}
	require.Empty(t, push(t.Context()))
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	require.Equal(t, []string{traceparent}, push(tracing.WithTraceparent(t.Context(), traceparent)))
}

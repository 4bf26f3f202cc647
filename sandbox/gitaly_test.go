package sandbox_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	gitalyauth "gitlab.com/gitlab-org/gitaly/v14/auth"
	"gitlab.com/gitlab-org/gitaly/v14/proto/go/gitalypb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/sandbox"
)

func dial(t *testing.T, g *sandbox.Gitaly, token string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(g.Address, "tcp://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(gitalyauth.RPCCredentialsV2(token)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func TestGitaly_ServesAndKeepsRepositoriesOverAKill(t *testing.T) {
	g, err := sandbox.StartGitaly(t.Context(), sandbox.GitalyConfig{Progress: os.Stderr})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
	conn := dial(t, g, g.Token)

	info, err := gitalypb.NewServerServiceClient(conn).ServerInfo(t.Context(), &gitalypb.ServerInfoRequest{})
	require.NoError(t, err)
	require.NotEmpty(t, info.GetGitVersion())
	require.Len(t, info.GetStorageStatuses(), 1)
	require.Equal(t, sandbox.StorageName, info.GetStorageStatuses()[0].GetStorageName())
	require.True(t, info.GetStorageStatuses()[0].GetWriteable())

	repositories := gitalypb.NewRepositoryServiceClient(conn)
	repository := &gitalypb.Repository{StorageName: sandbox.StorageName, RelativePath: "a/b.git", GlRepository: "project-1"}
	_, err = repositories.CreateRepository(t.Context(), &gitalypb.CreateRepositoryRequest{Repository: repository})
	require.NoError(t, err)

	g.Process.Kill()
	require.NoError(t, g.Process.Start(t.Context()))
	found, err := repositories.RepositoryExists(t.Context(), &gitalypb.RepositoryExistsRequest{Repository: repository}, grpc.WaitForReady(true))
	require.NoError(t, err)
	require.True(t, found.GetExists())

	_, err = gitalypb.NewServerServiceClient(dial(t, g, "wrong")).ServerInfo(t.Context(), &gitalypb.ServerInfoRequest{})
	require.Error(t, err)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.MetricsURL, nil)
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)

	require.NoError(t, g.Stop())
	require.False(t, g.Process.Running())
	require.NoDirExists(t, g.Dir)
}

// Without workers that are well, Gitaly ends itself after seven minutes.
func TestGitaly_ItsWorkersAreWell(t *testing.T) {
	g, err := sandbox.StartGitaly(t.Context(), sandbox.GitalyConfig{Progress: os.Stderr})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
	var workers []string
	testkit.Eventually(t, func() error {
		if workers = workersOf(t, g.Process.PID()); len(workers) != 2 {
			return fmt.Errorf("workers listen at %v", workers)
		}
		return nil
	})
	for _, socket := range workers {
		conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		answer, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		require.NoError(t, err)
		require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, answer.GetStatus())
		require.NoError(t, conn.Close())
	}
}

// workersOf lists the sockets of the workers that Gitaly has started.
func workersOf(t *testing.T, gitaly int) []string {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var sockets []string
	for _, path := range commands {
		command, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
		if len(args) == 7 && filepath.Base(args[0]) == "bundle" && args[5] == strconv.Itoa(gitaly) {
			sockets = append(sockets, args[6])
		}
	}
	return sockets
}

func TestGitaly_ListensOnASocketInADirectoryOfItsOwn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a-directory-whose-name-is-too-long-for-the-path-of-a-unix-socket")
	g, err := sandbox.StartGitaly(t.Context(), sandbox.GitalyConfig{Dir: dir, Socket: true, Progress: os.Stderr})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
	_, err = gitalypb.NewServerServiceClient(dial(t, g, g.Token)).ServerInfo(t.Context(), &gitalypb.ServerInfoRequest{})
	require.NoError(t, err)
	require.NoError(t, g.Stop())
	require.NoFileExists(t, strings.TrimPrefix(g.Address, "unix:"))
	require.DirExists(t, dir, "it was not a temporary one")
}

func TestEnsureSecret_MakesOneOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, err := sandbox.EnsureSecret(path)
	require.NoError(t, err)
	again, err := sandbox.EnsureSecret(path)
	require.NoError(t, err)
	require.Equal(t, first, again)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

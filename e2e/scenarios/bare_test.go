package scenarios

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/clusterstate"
	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// bareEnv makes the test program a bare gRPC server, to compare with. It names a file
// with the encoded answer to every Get.
const bareEnv = "E2E_BARE_ANSWER"

// bareNextEnv, where set, is the address of another bare server, which is asked in turn.
const bareNextEnv = "E2E_BARE_NEXT"

// bareServer is the least that a gRPC server can do.
type bareServer struct {
	railsrpc.UnimplementedClusterStateServer
	answer *clusterstate.GetResponse
	// next is asked instead, unless it is nil.
	next railsrpc.ClusterStateClient
}

// Get implements railsrpc.ClusterStateServer.
func (s *bareServer) Get(ctx context.Context, request *railsrpc.ClusterGetRequest) (*clusterstate.GetResponse, error) {
	if s.next != nil {
		return s.next.Get(ctx, request)
	}
	return s.answer, nil
}

// List implements railsrpc.ClusterStateServer: with as many parts of an answer as the limit says.
func (s *bareServer) List(request *railsrpc.ClusterListRequest, stream grpc.ServerStreamingServer[clusterstate.ListResponse]) error {
	part := &clusterstate.ListResponse{Items: []*clusterstate.Item{{Json: make([]byte, grpctool.ChunkSize)}}}
	for range request.GetRequest().GetLimit() {
		if err := stream.Send(part); err != nil {
			return err
		}
	}
	return nil
}

// serveBare serves until standard input ends, and says first where.
func serveBare(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	answer := &clusterstate.GetResponse{}
	if err := proto.Unmarshal(data, answer); err != nil {
		return err
	}
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	bare := &bareServer{answer: answer}
	if address := os.Getenv(bareNextEnv); address != "" {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // the process ends
		bare.next = railsrpc.NewClusterStateClient(conn)
	}
	server := grpc.NewServer()
	railsrpc.RegisterClusterStateServer(server, bare)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	fmt.Fprintln(os.Stdout, listen.Addr())
	return server.Serve(listen)
}

// newBare starts a bare server as a process of its own and returns a client of it and its
// address. Unless next is empty, it asks the bare server there.
func newBare(tb testing.TB, answer *clusterstate.GetResponse, next string) (client railsrpc.ClusterStateClient, address string) {
	tb.Helper()
	data, err := proto.Marshal(answer)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "answer")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareEnv+"="+path, bareNextEnv+"="+next)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("bare server: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	address = strings.TrimSpace(line)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return railsrpc.NewClusterStateClient(conn), address
}

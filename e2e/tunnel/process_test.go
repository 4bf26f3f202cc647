package tunnel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/stretchr/testify/require"

	agentend "github.com/kas-agentk/kas/agentk/tunnel"
	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/grpctool"
)

// asAgent in the environment makes the test binary be an agent, which connects to the
// kas that it names, and listens for bare gRPC as well.
const asAgent = "TUNNEL_TEST_AS_AGENT"

func TestMain(m *testing.M) {
	if where := os.Getenv(asAgent); where != "" {
		if err := beAgent(where); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// beAgent serves until SIGTERM. It writes the address for bare gRPC to standard output.
func beAgent(where string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	scheme, address, _ := strings.Cut(where, "://")
	r := &rig{address: address}
	for _, one := range transports {
		if one.scheme == scheme {
			r.over = one
		}
	}
	_, r.trust = certificates()
	conn, err := r.newConn()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	agent := agentend.NewServer(agentend.Config{
		Client: agentrpc.NewReverseTunnelClient(conn),
		Meta:   func(context.Context) *agentrpc.AgentMeta { return &agentrpc.AgentMeta{InstanceId: 1} },
		Log:    zap.NewNop(),
	})
	bare := grpc.NewServer(grpc.MaxRecvMsgSize(grpctool.MaxMessageSize))
	for _, registrar := range []grpc.ServiceRegistrar{agent, bare} {
		testgrpc.RegisterTestServiceServer(registrar, &service{})
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, l.Addr())
	var g errgroup.Group
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error { return bare.Serve(l) })
	<-ctx.Done()
	bare.Stop()
	return g.Wait()
}

// twoProcesses are a rig whose agent is a process of its own, and that process asked
// directly.
func twoProcesses(b *testing.B, with transport) (tunnel, bare testgrpc.TestServiceClient) {
	b.Helper()
	r := newRig(b, with)
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), asAgent+"="+with.scheme+"://"+r.address)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	r.leave = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		require.NoError(b, cmd.Wait())
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	conn, err := grpc.NewClient(strings.TrimSpace(address), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpctool.MaxMessageSize)))
	require.NoError(b, err)
	b.Cleanup(func() { _ = conn.Close() })
	r.awaitIdle()
	return r.client, testgrpc.NewTestServiceClient(conn)
}

package tunnel_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/kas-agentk/kas/api/railsrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestServer_TellsOfStreams(t *testing.T) {
	t.Parallel()
	h := start(t)
	require.Empty(t, h.server.Streams(7))
	one := h.connectAs("agent-7", 1, testService)
	h.connectAs("agent-7", 2, testService)
	h.connectAs("agent-7", 2, testService)
	h.connectAs("agent-8", 1, testService)
	h.await(4, 0)
	call := h.unary(t.Context(), 7)
	request := one.recvStart() // of the process that was connected first
	want := []*railsrpc.TunnelStreams{{InstanceId: 1, Busy: 1}, {InstanceId: 2, Idle: 2}}
	testkit.Eventually(t, func() error {
		got := h.server.Streams(7)
		if len(got) != len(want) || !proto.Equal(want[0], got[0]) || !proto.Equal(want[1], got[1]) {
			return errors.New("the streams are not as they should be")
		}
		return nil
	})
	one.send(answer(request.GetRpc(), &grpc_testing.SimpleResponse{}))
	require.NoError(t, <-call)
}

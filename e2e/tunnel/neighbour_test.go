package tunnel

import (
	"bytes"
	"context"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/kas-agentk/kas/internal/testkit"
	"github.com/kas-agentk/kas/kas/private"
	kasend "github.com/kas-agentk/kas/kas/tunnel"
)

// neighbour is a kas without agents, and the private API of one that has some.
type neighbour struct {
	kas *kasend.Server
	// drain ends the private API as SIGTERM does, and waits for it. What the other kas has
	// received of it by then it still passes on.
	drain func()
	// end ends the kas without agents, and waits for it.
	end func()
}

// byWay finds all agents at one kas.
type byWay struct {
	*private.Client
	url     string
	changed chan struct{}
}

// Where implements kas/tunnel's Replicas.
func (b byWay) Where(context.Context, int64) ([]string, <-chan struct{}, error) {
	return []string{b.url}, b.changed, nil
}

func newNeighbour(tb testing.TB, has *kasend.Server) *neighbour {
	tb.Helper()
	secret := bytes.Repeat([]byte("s"), 32)
	server := private.NewServer(private.ServerConfig{Secret: secret, Clock: clock.RealClock{}}, has, testkit.Logger(tb))
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	metrics := prometheus.NewRegistry()
	// On a busy machine a ping may take longer than the seconds that it may by default.
	client, err := private.NewClient(private.ClientConfig{Secret: secret, PingTimeout: testkit.Patience}, testkit.Logger(tb), metrics)
	require.NoError(tb, err)
	n := &neighbour{}
	n.kas, err = kasend.NewServer(kasend.Config{}, kasend.Collaborators{
		Access: &ror{bell: make(chan struct{})}, Registerer: metrics,
		Replicas: byWay{client, "grpc://" + l.Addr().String(), make(chan struct{})},
	})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var served, ran errgroup.Group
	served.Go(func() error { return testkit.Serve(server, l) })
	ran.Go(func() error { return client.Run(ctx) })
	ran.Go(func() error { return n.kas.Run(ctx) })
	n.drain = func() {
		server.GracefulStop()
		require.NoError(tb, served.Wait())
	}
	n.end = func() {
		cancel()
		require.NoError(tb, ran.Wait())
	}
	return n
}

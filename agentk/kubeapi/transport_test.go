package kubeapi

import (
	"fmt"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

// silent is an API server that lets clients connect, and says nothing.
func silent(t *testing.T) (cfg option, connected <-chan struct{}) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	came := make(chan struct{}, 100)
	var g errgroup.Group
	g.Go(func() error {
		var conns []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil { // the test is over
				break
			}
			conns = append(conns, conn)
			came <- struct{}{}
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
		return nil
	})
	t.Cleanup(func() {
		_ = listener.Close()
		_ = g.Wait()
	})
	return func(_ *httptest.Server, cfg *rest.Config) {
		cfg.Host, cfg.Insecure = "https://"+listener.Addr().String(), true
	}, came
}

func TestGate_ARequestThatWaitsIsNotHeldUpForLong(t *testing.T) {
	api, connected := silent(t)
	r := start(t, nil, api)
	r.server.plain.(*gate).patience = 10 * time.Millisecond
	for range gateWidth + 3 {
		r.begin(&agentrpc.HttpRequestHead{ContentLength: proto.Int64(0)})
	}
	for range gateWidth + 3 {
		<-connected
	}
}

func TestGate_ACallerThatLeavesDoesNotWait(t *testing.T) {
	api, connected := silent(t)
	r := start(t, nil, api)
	r.server.plain.(*gate).patience = time.Hour
	calls := make([]*call, gateWidth+1)
	for i := range calls {
		calls[i] = r.begin(&agentrpc.HttpRequestHead{ContentLength: proto.Int64(0)})
	}
	for range gateWidth {
		<-connected
	}
	for _, c := range calls {
		c.cancel()
	}
	testkit.Eventually(t, func() error {
		if n := r.value("agentk_kubernetes_api_requests_running"); n != 0 {
			return fmt.Errorf("%v are running", n)
		}
		return nil
	})
}

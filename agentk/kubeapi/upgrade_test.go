package kubeapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

// upgradingTo answers 101 and has speak go on with the connection.
func upgradingTo(protocol string, speak func(conn net.Conn, from io.Reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
			http.Error(w, fmt.Sprint("no upgrade: ", r.Proto, r.Header), http.StatusBadRequest)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Protocol: %s\r\nX-Asked: %s\r\n\r\nhello",
			protocol, r.Header.Get("Sec-WebSocket-Protocol"), r.Header.Get("Upgrade"))
		speak(conn, buffered)
	}
}

func upgradeHead() *agentrpc.HttpRequestHead {
	return &agentrpc.HttpRequestHead{
		Method: http.MethodPost, Url: "/api/v1/namespaces/a/pods/b/exec?command=sh", Upgrade: "SPDY/3.1",
		Headers: headers("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
	}
}

func bothTransports(t *testing.T, handler http.HandlerFunc, test func(t *testing.T, r *rig)) {
	t.Helper()
	for name, options := range map[string][]option{"plaintext": nil, "TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) { test(t, start(t, handler, options...)) })
	}
}

func TestUpgrade_BothSidesSpeakAndEndOnTheirOwn(t *testing.T) {
	bothTransports(t, upgradingTo("SPDY/3.1", func(conn net.Conn, from io.Reader) {
		said, _ := io.ReadAll(from) // until the client says no more
		_, _ = fmt.Fprintf(conn, "you said %s", said)
	}), func(t *testing.T, r *rig) {
		t.Helper()
		c := r.begin(upgradeHead())
		head := c.head()
		require.EqualValues(t, http.StatusSwitchingProtocols, head.GetStatus())
		require.Equal(t, http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"}, "X-Asked": {"SPDY/3.1"},
		}, headerOf(head))
		c.expect("hello")
		c.send("one, ")
		c.send("two")
		require.InDelta(t, 1, r.value("agentk_kubernetes_api_upgraded_running"), 0)
		require.NoError(t, c.stream.CloseSend())
		c.expect("you said one, two")
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		testkit.Eventually(t, func() error {
			if n := r.value("agentk_kubernetes_api_upgraded_running"); n != 0 {
				return fmt.Errorf("%v are upgraded", n)
			}
			return nil
		})
	})
}

func TestUpgrade_EndsWhenTheAPIServerDoes(t *testing.T) {
	bothTransports(t, upgradingTo("SPDY/3.1", func(conn net.Conn, from io.Reader) {
		_, _ = io.ReadFull(from, make([]byte, 3))
		_, _ = fmt.Fprint(conn, "bye")
	}), func(t *testing.T, r *rig) {
		t.Helper()
		c := r.begin(upgradeHead())
		c.head()
		c.expect("hello")
		c.send("end")
		c.expect("bye")
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "though the client has not ended")
	})
}

func TestUpgrade_EndsWhenTheClientLeaves(t *testing.T) {
	ended := make(chan error, 2)
	bothTransports(t, upgradingTo("SPDY/3.1", func(_ net.Conn, from io.Reader) {
		_, err := io.Copy(io.Discard, from)
		ended <- err
	}), func(t *testing.T, r *rig) {
		t.Helper()
		c := r.begin(upgradeHead())
		c.head()
		c.expect("hello")
		c.cancel()
		<-ended
	})
}

func TestUpgrade_WhereTheAPIServerDoesNotWantToTheAnswerIsPlain(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such pod", http.StatusNotFound) }, overTLS)
	c := r.begin(upgradeHead())
	head := c.head()
	require.EqualValues(t, http.StatusNotFound, head.GetStatus())
	require.Empty(t, headerOf(head).Get("Upgrade"))
	c.expect("no such pod\n")
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestUpgrade_OnlyToWhatWasAskedFor(t *testing.T) {
	r := start(t, upgradingTo("h2c", func(net.Conn, io.Reader) {}))
	_, err := r.begin(upgradeHead()).stream.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, `the API server goes on with "h2c" though asked for "SPDY/3.1"`)
}

func TestUpgrade_ToAnythingElseIsNotAskedFor(t *testing.T) {
	r := start(t, mirror)
	head := upgradeHead()
	head.Upgrade = "h2c"
	_, header, body, err := r.get(head)
	require.NoError(t, err)
	require.NotContains(t, body, "h2c")
	require.Empty(t, header.Get("Upgrade"))
}

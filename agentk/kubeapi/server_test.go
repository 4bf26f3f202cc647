package kubeapi

import (
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/rest"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

func certificateOf(api *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
}

func TestDo_PassesARequestOnAndItsAnswerBack(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "text/x")
				w.WriteHeader(http.StatusTeapot)
				_, _ = fmt.Fprint(w, strings.Join([]string{
					r.Proto, r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("User-Agent"), r.Header.Get("Accept-Encoding"), string(body),
				}, " "))
			}, options...)
			c := r.begin(&agentrpc.HttpRequestHead{
				Method: http.MethodPatch, Url: "/apis/a/v1/x?force=true&y=%2F",
				Headers: []*agentrpc.HttpHeader{{Name: "user-agent", Values: []string{"kubectl"}}},
			})
			c.send("some ")
			c.send("body")
			require.NoError(t, c.stream.CloseSend())
			head := c.head()
			require.EqualValues(t, http.StatusTeapot, head.GetStatus())
			require.Equal(t, "text/x", headerOf(head).Get("Content-Type"))
			all, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, strings.Fields(name)[0]+map[bool]string{true: ".0"}[options != nil]+
				" PATCH /apis/a/v1/x?force=true&y=%2F Bearer agents-own kubectl  some body", string(all))
		})
	}
}

func TestDo_StreamsBothWaysAsDataComes(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				word := make([]byte, 5)
				for {
					if _, err := io.ReadFull(r.Body, word); err != nil {
						return
					}
					_, _ = w.Write(word)
					_ = http.NewResponseController(w).Flush()
				}
			}, options...)
			c := r.begin(&agentrpc.HttpRequestHead{Method: http.MethodPost})
			if options != nil { // net/http waits for a first byte of a body over HTTP/1.1
				c.head()
			}
			for _, word := range []string{"first", "after"} {
				c.send(word)
				if c.rest == nil && options == nil && word == "first" {
					c.head()
				}
				c.expect(word)
			}
			require.NoError(t, c.stream.CloseSend())
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func TestDo_LargeTransfersArriveWhole(t *testing.T) {
	const size = 9<<20 + 17
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}, overTLS)
	c := r.begin(&agentrpc.HttpRequestHead{Method: http.MethodPost, ContentLength: proto.Int64(size)})
	part := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	var g errgroup.Group
	g.Go(func() error {
		for sent := 0; sent < size; sent += len(part) {
			if err := c.stream.Send(&agentrpc.HttpRequest{Data: []byte(part[:min(len(part), size-sent)])}); err != nil {
				return err
			}
		}
		return c.stream.CloseSend()
	})
	c.head()
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	require.Len(t, all, size)
	for i := 0; i+len(part) <= size; i += len(part) {
		require.Equal(t, crc32.ChecksumIEEE([]byte(part)), crc32.ChecksumIEEE(all[i:i+len(part)]))
	}
	require.InDelta(t, size, r.value("agentk_kubernetes_api_bytes_total", "up"), 0)
	require.InDelta(t, size, r.value("agentk_kubernetes_api_bytes_total", "down"), 0)
	require.InDelta(t, 1, r.value("agentk_kubernetes_api_requests_total", "200", "POST"), 0)
}

func TestDo_ASlowReaderHoldsTheAPIServerBack(t *testing.T) {
	written := make(chan int, 1)
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		n, chunk := 0, make([]byte, 64<<10)
		for r.Context().Err() == nil && n < 1<<30 {
			m, err := w.Write(chunk)
			if n += m; err != nil {
				break
			}
		}
		written <- n
	}, overTLS)
	c := r.begin(&agentrpc.HttpRequestHead{ContentLength: proto.Int64(0)})
	c.head()
	c.expect(strings.Repeat("\x00", 1<<20))
	c.cancel()
	require.Less(t, <-written, 64<<20, "it was read though nobody wanted it")
}

func TestDo_EndsTheRequestWhenTheCallerLeaves(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			came, left := make(chan struct{}), make(chan struct{})
			r := start(t, func(_ http.ResponseWriter, r *http.Request) {
				close(came)
				<-r.Context().Done()
				close(left)
			}, options...)
			c := r.begin(&agentrpc.HttpRequestHead{ContentLength: proto.Int64(0)})
			<-came
			c.cancel()
			<-left
			testkit.Eventually(t, func() error {
				if n := r.value("agentk_kubernetes_api_requests_total", "Canceled", "GET"); n != 1 {
					return fmt.Errorf("%v were cancelled", n)
				}
				return nil
			})
		})
	}
}

func TestDo_ABodyThatBreaksOffNeverLooksWhole(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			came, result := make(chan struct{}), make(chan error, 1)
			r := start(t, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadFull(r.Body, make([]byte, 4))
				close(came)
				_, err := io.ReadAll(r.Body)
				result <- err
			}, options...)
			c := r.begin(&agentrpc.HttpRequestHead{Method: http.MethodPut})
			c.send("half of ")
			<-came
			c.cancel()
			require.Error(t, <-result)
		})
	}
}

func TestDo_SaysWhenTheAPIServerBreaksOff(t *testing.T) {
	for name, options := range map[string][]option{"HTTP/1.1": nil, "HTTP/2 over TLS": {overTLS}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = fmt.Fprint(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}, options...)
			code, _, body, err := r.get(&agentrpc.HttpRequestHead{})
			require.EqualValues(t, http.StatusOK, code)
			require.Equal(t, "half", body)
			require.Equal(t, codes.Unavailable, status.Code(err))
			require.ErrorContains(t, err, "the API server broke off its answer")
		})
	}
	r := start(t, nil, func(_ *httptest.Server, cfg *rest.Config) { cfg.Host = "http://127.0.0.1:1" })
	_, _, _, err := r.get(&agentrpc.HttpRequestHead{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "the API server cannot be reached: ")
	require.InDelta(t, 1, r.value("agentk_kubernetes_api_requests_total", "Unavailable", "GET"), 0)
}

func TestDo_RedirectsAreTheClientsToFollow(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	code, header, _, err := r.get(&agentrpc.HttpRequestHead{})
	require.NoError(t, err)
	require.EqualValues(t, http.StatusFound, code)
	require.Equal(t, "/elsewhere", header.Get("Location"))
}

func TestDo_RepeatsASmallBodyOnAnotherConnection(t *testing.T) {
	// An API server that stops takes no more on a connection, which the client sees too late.
	var mu sync.Mutex
	seen := map[string]int{}
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen[string(body)]++
		w.Header().Set("Connection", "close") // GOAWAY
	}, overTLS)
	for i := range 50 {
		body := fmt.Sprint(i)
		c := r.begin(&agentrpc.HttpRequestHead{Method: http.MethodPost, ContentLength: proto.Int64(int64(len(body)))})
		c.send(body)
		require.EqualValues(t, http.StatusOK, c.head().GetStatus())
	}
	require.Len(t, seen, 50)
}

func TestDo_ManyRequestsAtOnceNeedFewConnections(t *testing.T) {
	const many, perConnection, maxConnections = 1000, 250, 100
	var connections atomic.Int64
	release := make(chan struct{})
	r := start(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = fmt.Fprint(w, "done")
	}, func(api *httptest.Server, cfg *rest.Config) {
		api.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: perConnection}
		api.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				connections.Add(1)
			}
		}
		overTLS(api, cfg)
	})
	// Where handshakes take long, requests get a connection of their own rather than wait on.
	r.server.plain.(*gate).patience = time.Hour
	calls := make([]*call, many)
	for i := range calls {
		calls[i] = r.begin(&agentrpc.HttpRequestHead{ContentLength: proto.Int64(0)})
	}
	for _, c := range calls {
		c.head()
	}
	require.InDelta(t, many, r.value("agentk_kubernetes_api_requests_running"), 0)
	require.Less(t, connections.Load(), int64(maxConnections))
	close(release)
	for _, c := range calls {
		c.expect("done")
	}
}

func TestDo_RefusesWhatIsNoRequest(t *testing.T) {
	r := start(t, func(http.ResponseWriter, *http.Request) { t.Error("it was made") })
	for name, row := range map[string]struct {
		messages []*agentrpc.HttpRequest
		want     string
	}{
		"nothing at all":            {nil, "there is no request"},
		"a body without a head":     {[]*agentrpc.HttpRequest{{Data: []byte("x")}}, "the first message has no head"},
		"a method that echoes":      {heads(&agentrpc.HttpRequestHead{Method: "TRACE", Url: "/x"}), "has no method"},
		"a method that tunnels":     {heads(&agentrpc.HttpRequestHead{Method: "CONNECT", Url: "/x"}), "has no method"},
		"a method that is two":      {heads(&agentrpc.HttpRequestHead{Method: "GET /y HTTP/1.1\r\n", Url: "/x"}), "has no method"},
		"a header that is two":      {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Headers: headers("X-A", "b\r\nImpersonate-User: admin")}), "cannot be sent"},
		"a name of two headers":     {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Headers: headers("X-A: b\r\nY", "z")}), "no name of a header"},
		"a pseudo header":           {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Headers: headers(":path", "/y")}), "no name of a header"},
		"a body longer than said":   {append(heads(&agentrpc.HttpRequestHead{Method: "PUT", Url: "/x", ContentLength: proto.Int64(2)}), &agentrpc.HttpRequest{Data: []byte("abc")}), "longer"},
		"a body shorter than said":  {heads(&agentrpc.HttpRequestHead{Method: "PUT", Url: "/x", ContentLength: proto.Int64(2)}), "shorter"},
		"a length below zero":       {heads(&agentrpc.HttpRequestHead{Method: "PUT", Url: "/x", ContentLength: proto.Int64(-2)}), "longer"},
		"a second head":             {heads(&agentrpc.HttpRequestHead{Method: "PUT", Url: "/x", ContentLength: proto.Int64(2)}, &agentrpc.HttpRequestHead{}), "a head came again"},
		"nobody to impersonate":     {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Impersonation: &agentrpc.Impersonation{Groups: []string{"system:masters"}}}), "no name of the user"},
		"a name that would be cut":  {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Impersonation: &agentrpc.Impersonation{Username: " admin"}}), "cannot be"},
		"a group that is a header":  {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Impersonation: &agentrpc.Impersonation{Username: "a", Groups: []string{"a\nb"}}}), "cannot be"},
		"an extra without a key":    {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "/x", Impersonation: &agentrpc.Impersonation{Username: "a", Extra: []*agentrpc.ImpersonationExtra{{Values: []string{"x"}}}}}), "no key"},
		"an address somewhere else": {heads(&agentrpc.HttpRequestHead{Method: "GET", Url: "//evil/x"}), "begins with one slash"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := r.client.Do(t.Context())
			require.NoError(t, err)
			for _, m := range row.messages {
				require.NoError(t, stream.Send(m))
			}
			require.NoError(t, stream.CloseSend())
			_, err = stream.Recv()
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
			require.ErrorContains(t, err, row.want)
		})
	}
}

func heads(all ...*agentrpc.HttpRequestHead) (out []*agentrpc.HttpRequest) {
	for _, h := range all {
		out = append(out, &agentrpc.HttpRequest{Head: h})
	}
	return out
}

func headers(name string, values ...string) []*agentrpc.HttpHeader {
	return []*agentrpc.HttpHeader{{Name: name, Values: values}}
}

// value of a metric that has these label values.
func (r *rig) value(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	require.NoError(r.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var has []string
			for _, label := range m.GetLabel() {
				has = append(has, label.GetValue())
			}
			if family.GetName() == name && strings.Join(has, " ") == strings.Join(labels, " ") {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

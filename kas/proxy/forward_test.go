package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kas-agentk/kas/api/agentrpc"
	"github.com/kas-agentk/kas/internal/testkit"
)

func TestForward_TheRequestCrossesAsItIs(t *testing.T) {
	heads := make(chan *agentrpc.HttpRequestHead, 1)
	h := start(t, noting(heads))
	h.do(h.request(http.MethodPatch, "/apis/apps/v1", strings.NewReader("abc"), "Content-Type", "application/apply-patch+yaml", "Cookie", "a=b"))
	got := <-heads
	require.Equal(t, "PATCH", got.GetMethod())
	require.Equal(t, "/apis/apps/v1", got.GetUrl())
	require.EqualValues(t, 3, got.GetContentLength())
	require.Empty(t, got.GetUpgrade())
	names := map[string]bool{}
	for _, one := range got.GetHeaders() {
		names[one.GetName()] = true
	}
	require.True(t, names["Content-Type"])
	require.False(t, names["Cookie"])
	require.False(t, names["Authorization"])
	h.get("/")
	require.NotNil(t, (<-heads).ContentLength, "that there is no body is known")
	h.do(h.request(http.MethodPost, "/", struct{ io.Reader }{strings.NewReader("of unknown length")}))
	require.Nil(t, (<-heads).ContentLength)
}

func TestForward_BodiesStreamBothWays(t *testing.T) {
	h := start(t, func(stream agentStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := respond(stream, 200); err != nil {
			return err
		}
		for {
			request, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return stream.Send(&agentrpc.HttpResponse{Data: []byte("end\n")})
			}
			if err != nil {
				return err
			}
			if err := stream.Send(&agentrpc.HttpResponse{Data: request.GetData()}); err != nil {
				return err
			}
		}
	})
	read, write := io.Pipe()
	response, err := h.client.Do(h.request(http.MethodPost, "/", read))
	require.NoError(t, err)
	lines := bufio.NewReader(response.Body)
	for _, line := range []string{"one\n", "two\n", strings.Repeat("x", 300_000) + "\n"} { // each comes back before the next is sent
		go func() { _, _ = io.WriteString(write, line) }()
		got, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, line, got)
	}
	require.NoError(t, write.Close())
	got, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.Equal(t, "end\n", string(got))
	require.NoError(t, response.Body.Close())
	h.quiet()
	require.InDelta(t, 300_009.0, h.value("kas_proxy_bytes_total", "to_agent"), 0)
	require.InDelta(t, 300_013.0, h.value("kas_proxy_bytes_total", "from_agent"), 0)
}

func TestForward_TheHeadComesBeforeAnyEvent(t *testing.T) {
	ended := make(chan error, 1)
	h := start(t, func(stream agentStream) error {
		if err := answering(200)(stream); err != nil {
			return err
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	response, err := h.client.Do(h.request(http.MethodGet, "/api/v1/pods?watch=1", nil).WithContext(ctx))
	require.NoError(t, err)
	require.Equal(t, 200, response.StatusCode)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled, "the agent hears that nobody watches any more")
	_ = response.Body.Close()
	h.quiet()
}

func TestForward_ABodyThatBreaksOffEndsTheAgentsRequest(t *testing.T) {
	began, ended := make(chan bool, 1), make(chan error, 1)
	h := start(t, func(stream agentStream) error {
		for {
			request, err := stream.Recv()
			if err != nil {
				ended <- err
				return err
			}
			if len(request.GetData()) > 0 {
				began <- true
			}
		}
	})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.address)
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST /k8s-proxy/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pat:7:good\r\nContent-Length: 100\r\n\r\npart")
	require.NoError(t, err)
	<-began
	require.NoError(t, conn.Close())
	require.Equal(t, codes.Canceled, status.Code(<-ended), "and never looks like its end")
	h.quiet()
	require.InDelta(t, 1.0, h.value("kas_proxy_requests_total", "personal_access_token", "499"), 0)
}

func TestForward_AnAnswerThatBreaksOffNeverLooksWhole(t *testing.T) {
	for name, tls := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan struct{})
			h := start(t, func(stream agentStream) error {
				if err := answering(200, "a part")(stream); err != nil {
					return err
				}
				<-seen
				return status.Error(codes.Unavailable, "the API server broke off")
			}, func(c *Config) {
				if tls {
					c.TLS = certificate()
				}
			})
			response, err := h.client.Do(h.request(http.MethodGet, "/", nil))
			require.NoError(t, err)
			require.Equal(t, map[bool]int{false: 1, true: 2}[tls], response.ProtoMajor)
			part := make([]byte, 6)
			_, err = io.ReadFull(response.Body, part)
			require.NoError(t, err)
			close(seen)
			_, err = io.ReadAll(response.Body)
			require.Error(t, err)
			require.NoError(t, response.Body.Close())
		})
	}
}

func TestForward_AnAnswerDoesNotWaitForTheBody(t *testing.T) {
	h := start(t, answering(413, "too large"))
	read, write := io.Pipe()
	defer func() { _ = write.Close() }()
	response, err := h.client.Do(h.request(http.MethodPost, "/", read))
	require.NoError(t, err)
	require.Equal(t, 413, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "too large", string(body))
	_ = response.Body.Close()
	h.quiet()
}

func TestForward_WhatAnAgentsErrorMeans(t *testing.T) {
	for name, row := range map[string]struct {
		err  error
		code int
	}{
		"the API server is away":  {status.Error(codes.Unavailable, "why"), 502},
		"not allowed":             {status.Error(codes.PermissionDenied, "why"), 403},
		"not a request":           {status.Error(codes.InvalidArgument, "why"), 400},
		"an old agentk":           {status.Error(codes.Unimplemented, "why"), 501},
		"too much":                {status.Error(codes.ResourceExhausted, "why"), 503},
		"too slow":                {status.Error(codes.DeadlineExceeded, "why"), 504},
		"a fault of the agent's":  {status.Error(codes.Internal, "why"), 502},
		"something quite strange": {errors.New("why"), 502},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(agentStream) error { return row.err })
			response, body := h.get("/")
			refused(t, response, body, row.code, "why")
			require.Empty(t, response.Header.Get("Gitlab-Unauthorized"), "it is the cluster's refusal")
			require.NotContains(t, body, "rpc error")
		})
	}
}

func TestForward_AnAgentMayAnswerAnything(t *testing.T) {
	head := func(code int32) *agentrpc.HttpResponse {
		return &agentrpc.HttpResponse{Head: &agentrpc.HttpResponseHead{Status: code}}
	}
	for name, first := range map[string]*agentrpc.HttpResponse{
		"nothing":                             nil,
		"no head":                             {Data: []byte("x")},
		"a status that there is not":          head(1000),
		"a negative status":                   head(-1),
		"an answer before the answer":         head(100),
		"another protocol that nobody wanted": head(101),
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, func(stream agentStream) error {
				if first == nil {
					return nil
				}
				return stream.Send(first)
			})
			response, body := h.get("/")
			refused(t, response, body, 502, "the agent answered nothing of use")
		})
	}
}

func TestForward_AnswersWithoutBodies(t *testing.T) {
	h := start(t, func(stream agentStream) error {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		code := map[string]int32{"/304": 304, "/204": 204}[request.GetHead().GetUrl()]
		return stream.Send(&agentrpc.HttpResponse{Head: &agentrpc.HttpResponseHead{Status: max(code, 200), Headers: []*agentrpc.HttpHeader{
			{Name: "Content-Length", Values: []string{map[bool]string{true: "5", false: "0"}[code == 0]}}, {Name: "Audit-Id", Values: []string{"a"}},
		}}})
	})
	response, _ := h.do(h.request(http.MethodHead, "/", nil))
	require.Equal(t, 200, response.StatusCode)
	require.EqualValues(t, 5, response.ContentLength)
	require.Equal(t, "a", response.Header.Get("Audit-Id"))
	for path, code := range map[string]int{"/204": 204, "/304": 304} {
		response, body := h.get(path)
		require.Equal(t, code, response.StatusCode)
		require.Empty(t, body)
	}
}

func TestForward_NobodyWaitsForAnAgentThatIsAway(t *testing.T) {
	h := start(t, answering(200))
	for agent, part := range map[string]string{
		"8":  "agent 8 is not connected",
		"10": "agent 10 is not connected: does agentk run in the cluster",
		"11": "agent 11 is not connected", // nor for one that is expected, as there is no ReconnectWait
	} {
		response, body := h.get("/", "Authorization", "", "Authorization", "Bearer pat:"+agent+":good")
		refused(t, response, body, 503, part)
		require.Empty(t, response.Header.Get("Retry-After"), "kubectl would wait again and again")
	}
}

func TestForward_WaitsForTheAgentAWhile(t *testing.T) {
	for name, row := range map[string]struct {
		agent string
		wait  time.Duration
		why   string
	}{
		"one that is connected, and busy": {"9", 15 * time.Second, "is the agent connected?"},
		"one that is expected back":       {"11", 5 * time.Second, "agent 11 is not connected, and has not come back within 5s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, answering(200), func(c *Config) { c.ReconnectWait = 5 * time.Second })
			type answered struct {
				response reply
				body     string
			}
			done := make(chan answered, 1)
			r := h.request(http.MethodGet, "/", nil, "Authorization", "", "Authorization", "Bearer pat:"+row.agent+":good")
			go func() {
				response, body := h.do(r)
				done <- answered{response, body}
			}()
			testkit.Eventually(t, func() error {
				if !h.clock.HasWaiters() {
					return errors.New("nobody waits")
				}
				return nil
			})
			h.clock.Step(row.wait - time.Second)
			require.Empty(t, done)
			h.clock.Step(time.Second)
			got := <-done
			refused(t, got.response, got.body, 503, row.why)
		})
	}
}

func TestForward_ByHTTP2AsWell(t *testing.T) {
	h := start(t, func(stream agentStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		var got []byte
		for {
			request, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return respond(stream, 200, string(got))
			}
			if err != nil {
				return err
			}
			got = append(got, request.GetData()...)
		}
	}, func(c *Config) { c.TLS = certificate() })
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	response, body := h.do(h.request(http.MethodPut, "/", bytes.NewReader(data)))
	require.Equal(t, 2, response.ProtoMajor)
	require.Len(t, body, len(data))
	require.Equal(t, string(data), body)
}

func TestReceive_AgreesWithProtobuf(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 3000)
	h := start(t, func(stream agentStream) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		return stream.Send(&agentrpc.HttpResponse{Head: &agentrpc.HttpResponseHead{Status: 201, Headers: first.GetHead().GetHeaders()}, Data: data})
	})
	response, body := h.get("/", "X-A", "1", "X-A", "2")
	require.Equal(t, 201, response.StatusCode)
	require.Equal(t, []string{"1", "2"}, response.Header.Values("X-A"))
	require.Equal(t, string(data), body)
}
